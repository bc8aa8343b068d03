"""Reads the files of a run folder; nothing here knows how they will be shown.

config.yaml       the resolved configuration
environment.json  commit, versions, devices
metrics.jsonl     a line per logged step; evaluation lines carry "split": "val"
summary.json      free: "command", "chance" (figure -> level), "data", "parameters", ...
evaluation/       a JSON file for each evaluation, with its pictures beside it
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
from vlpretrain.report.values import mapping, number, text

# What a line says about itself, rather than a figure to draw.
NOT_FIGURES = ("step", "split")
MAX_SKIPS = 10

# evaluation/NAME.json: reconstructions and pairs of pretraining, then a file for each task.
EVALUATIONS = ("evaluation", "vqa", "retrieval", "classification", "attention")


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
    """A run folder, read. A file that is missing or unreadable is empty here.

    Attributes:
        evaluations: what evaluation/NAME.json holds, by name.
        unreadable: the evaluations whose file is there but can't be read.
    """

    folder: Path
    train: dict[str, Series]
    val: dict[str, Series]
    broken_lines: int
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    skips: Skips = Skips(0, ())

    @property
    def task(self) -> str:
        """What the run was for; a configuration without a task is of pretraining."""
        return text(mapping(self.config.get("task")).get("name")) or "pretrain"

    @property
    def logged(self) -> bool:
        """Whether there is a figure over steps: an evaluation alone has none."""
        return bool(self.train or self.val)


def is_run(folder: Path) -> bool:
    """Whether a folder holds what a run or an evaluation leaves."""
    return (folder / "metrics.jsonl").is_file() or bool(_evaluation_files(folder))


def read_run(folder: Path) -> RunRecord:
    """Reads a run folder.

    Raises:
        UserError: it is not there, or holds neither a readable line of metrics nor an evaluation.
    """
    if not folder.is_dir():
        raise UserError("no such folder", where=str(folder), fix="name the folder of a run")
    metrics = read_metrics(folder / "metrics.jsonl")
    files = _evaluation_files(folder)
    if not (metrics.train or metrics.val or files):
        raise UserError(
            "neither a readable line of metrics nor an evaluation, so there is nothing to report",
            where=str(folder / "metrics.jsonl"),
            fix="name the folder of a run that has logged at least one step",
        )
    evaluations = {name: _read_mapping(path) for name, path in files.items()}
    return RunRecord(
        folder=folder,
        train=metrics.train,
        val=metrics.val,
        broken_lines=metrics.broken_lines,
        config=read_config(folder),
        environment=_read_mapping(folder / "environment.json"),
        summary=_read_mapping(folder / "summary.json"),
        evaluations={name: found for name, found in evaluations.items() if found},
        unreadable=tuple(f"{name}.json" for name, found in evaluations.items() if not found),
        skips=_read_skips(folder / "skipped.jsonl"),
    )


def _evaluation_files(folder: Path) -> dict[str, Path]:
    paths = {name: folder / "evaluation" / f"{name}.json" for name in EVALUATIONS}
    return {name: path for name, path in paths.items() if path.is_file()}


@dataclass(frozen=True)
class Metrics:
    """metrics.jsonl by figure."""

    train: dict[str, Series]
    val: dict[str, Series]
    broken_lines: int


def read_metrics(path: Path) -> Metrics:
    """Reads metrics.jsonl line by line; a line cut by a kill is counted and passed over.

    A missing file is one without lines.
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
    return record if record is not None and number(record.get("step")) is not None else None


def _parse_mapping(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
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
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in NOT_FIGURES or not (value is None or is_number):
            continue
        # What is not finite stays in the curve, as a gap.
        figure = found if (found := number(value)) is not None else math.nan
        columns.setdefault(name, _Column()).append(float(record["step"]), figure)


def _finish(columns: dict[str, _Column]) -> dict[str, Series]:
    return {
        name: Series(np.array(column.step), np.array(column.value))
        for name, column in columns.items()
    }


def read_config(folder: Path) -> dict[str, Any]:
    return _read_mapping(folder / "config.yaml")


def _read_mapping(path: Path) -> dict[str, Any]:
    """A YAML or JSON mapping; empty where the file is missing, broken or something else."""
    try:
        written = path.read_text(encoding="utf-8")
        content = json.loads(written) if path.suffix == ".json" else yaml.safe_load(written)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
