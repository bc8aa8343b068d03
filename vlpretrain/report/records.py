"""Reads the files of a run folder; nothing here knows how they will be shown.

config.yaml       the resolved configuration
environment.json  commit, versions, devices
metrics.jsonl     a line per logged step; evaluation lines carry "split": "val"
summary.json      free: "command", "chance" (figure -> level), "data", "parameters", ...
evaluation/       evaluation.json with pictures beside it
"""

from __future__ import annotations

import json
import math
from array import array
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vlpretrain.errors import UserError

# What a line says about itself, rather than a figure to draw.
NOT_FIGURES = ("step", "split")
MAX_SKIPS = 10


@dataclass(frozen=True)
class Series:
    """A figure over steps: rising steps, and values that may be non-finite."""

    step: np.ndarray
    value: np.ndarray

    def last_finite(self, share: float = 0.0) -> float | None:
        """The mean over the last `share` of the values (at least one), or None without any."""
        finite = self.value[np.isfinite(self.value)]
        if not len(finite):
            return None
        return float(finite[-max(1, math.ceil(share * len(finite))) :].mean())


@dataclass(frozen=True)
class Skips:
    """Samples that could not be used: how many, and the first of them."""

    count: int
    first: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class RunRecord:
    """A run folder, read. A file that is missing or unreadable is empty here."""

    folder: Path
    train: dict[str, Series]
    val: dict[str, Series]
    broken_lines: int
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    skips: Skips = Skips(0, ())


def read_run(folder: Path) -> RunRecord:
    """Reads a run folder.

    Raises:
        UserError: it holds no readable line of metrics.
    """
    metrics = read_metrics(folder / "metrics.jsonl")
    return RunRecord(
        folder=folder,
        train=metrics.train,
        val=metrics.val,
        broken_lines=metrics.broken_lines,
        config=_read_mapping(folder / "config.yaml"),
        environment=_read_mapping(folder / "environment.json"),
        summary=_read_mapping(folder / "summary.json"),
        evaluation=_read_mapping(folder / "evaluation" / "evaluation.json"),
        skips=_read_skips(folder / "skipped.jsonl"),
    )


@dataclass(frozen=True)
class Metrics:
    """metrics.jsonl by figure."""

    train: dict[str, Series]
    val: dict[str, Series]
    broken_lines: int


def read_metrics(path: Path) -> Metrics:
    """Reads metrics.jsonl line by line; a line cut by a kill is counted and passed over.

    Raises:
        UserError: the file is missing or has no readable line.
    """
    train: dict[str, _Column] = {}
    val: dict[str, _Column] = {}
    broken_lines = 0
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                record = _parse_line(line)
                if record is None:
                    broken_lines += bool(line.strip())
                    continue
                _append(val if record.get("split") == "val" else train, record)
    if not train and not val:
        raise UserError(
            "no readable line of metrics, so there is nothing to report",
            where=str(path),
            fix="name the folder of a run that has logged at least one step",
        )
    return Metrics(_finish(train), _finish(val), broken_lines)


@dataclass(frozen=True)
class _Column:
    """A figure while it is read: packed, as a long run has millions of values."""

    step: array[float] = field(default_factory=lambda: array("d"))
    value: array[float] = field(default_factory=lambda: array("d"))

    def append(self, step: float, value: float) -> None:
        if self.step and step <= self.step[-1]:
            # The run went back to a checkpoint: what it logged past it has been superseded.
            keep = bisect_left(self.step, step)
            del self.step[keep:], self.value[keep:]
        self.step.append(step)
        self.value.append(value)


def _parse_line(line: str) -> dict[str, Any] | None:
    record = _parse_mapping(line)
    return record if record is not None and _is_number(record.get("step")) else None


def _parse_mapping(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _read_skips(path: Path) -> Skips:
    """The file is written with the first skip."""
    if not path.is_file():
        return Skips(0, ())
    count, first = 0, []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            record = _parse_mapping(line)
            if record is not None:
                count += 1
                first += [record] if count <= MAX_SKIPS else []
    return Skips(count, tuple(first))


def _append(columns: dict[str, _Column], record: dict[str, Any]) -> None:
    for name, value in record.items():
        if name in NOT_FIGURES or not (value is None or _is_number(value)):
            continue
        figure = math.nan if value is None else float(value)
        columns.setdefault(name, _Column()).append(float(record["step"]), figure)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finish(columns: dict[str, _Column]) -> dict[str, Series]:
    return {
        name: Series(np.array(column.step), np.array(column.value))
        for name, column in columns.items()
    }


def _read_mapping(path: Path) -> dict[str, Any]:
    """A YAML or JSON mapping; empty where the file is missing, broken or something else."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
