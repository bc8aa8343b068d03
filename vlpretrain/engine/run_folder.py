"""The folder of a run: what was asked for, where it ran, and how it went.

    config.yaml        the resolved configuration        environment.json   versions, devices
    metrics.jsonl      a line per log point              tensorboard/       the same figures
    skipped.jsonl      samples that could not be used    checkpoints/       see checkpoint.py
Only rank 0 writes.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from vlpretrain.distributed import is_main, world_size
from vlpretrain.errors import UserError
from vlpretrain.types import Skip

VERSIONS_OF = ("vlpretrain", "torch", "deepspeed", "timm", "transformers", "open_clip_torch")


class RunFolder:
    """Opens (and, on rank 0, makes) a run's folder.

    Raises:
        UserError: the folder can't be written.
    """

    def __init__(self, path: str | Path, config_text: str, tensorboard: bool = True) -> None:
        self.path = Path(path)
        self._config_text = config_text
        self._tensorboard: Any = None
        self._wants_tensorboard = tensorboard
        if is_main():
            with writing(self.path):
                self.checkpoints.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def begin(self, step: int) -> None:
        """Says what runs from this step on. Until then the folder tells of the run before.

        Drops what was logged after the step, and a line that a killed run left half-written.

        Raises:
            UserError: the folder can't be written.
        """
        if not is_main():
            return
        with writing(self.path):
            (self.path / "config.yaml").write_text(self._config_text, encoding="utf-8")
            _write_json(self.path / "environment.json", describe_environment())
            if self.metrics.exists():
                self._cut_back(step)

    def _cut_back(self, step: int) -> None:
        lines = self.metrics.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _logged_step(line) <= step]
        partial = self.metrics.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        partial.replace(self.metrics)

    def log(self, figures: Mapping[str, float | int | str]) -> None:
        """Adds one line to metrics.jsonl, and its figures to TensorBoard."""
        if not is_main():
            return
        with writing(self.metrics):
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict(figures)) + "\n")
            if self._wants_tensorboard:
                self._log_to_tensorboard(figures)

    def _log_to_tensorboard(self, figures: Mapping[str, float | int | str]) -> None:
        if self._tensorboard is None:
            from torch.utils.tensorboard import SummaryWriter  # takes a second

            folder = str(self.path / "tensorboard")
            # What an earlier start of the run logged from this step on is not shown.
            self._tensorboard = SummaryWriter(folder, purge_step=int(figures["step"]))
        for name, value in figures.items():
            if isinstance(value, float):
                self._tensorboard.add_scalar(name, value, figures["step"])

    def log_skips(self, step: int, skips: Sequence[Skip]) -> None:
        """Adds the samples of all ranks that could not be used to skipped.jsonl."""
        if is_main() and skips:
            with (self.path / "skipped.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"step": step, **asdict(skip)}) + "\n" for skip in skips)

    def say(self, lines: str | Iterable[str]) -> None:
        """Prints to the screen, from rank 0."""
        if is_main() and lines:
            print(lines if isinstance(lines, str) else "\n".join(lines), flush=True)

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turns a failure to write inside into a UserError that names `place`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        system = error if isinstance(error, OSError) else OSError()
        raise UserError(
            f"can't be written: {system.strerror or error}",
            where=str(system.filename or place),
            fix="free some space or choose another `out`; checkpoints stay as they are",
        ) from error


def describe_environment() -> dict[str, Any]:
    """Commit, versions and devices, for whoever wants to run it again."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "commit": _commit(),
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONS_OF},
        "cuda": torch.version.cuda,
        "devices": devices or [platform.processor() or platform.machine()],
        "ranks": world_size(),
        "threads_per_rank": torch.get_num_threads(),
        "host": platform.node(),
    }


def _commit() -> str | None:
    """The checked-out commit of the library's source, None for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _logged_step(line: str) -> float:
    """The step of a line of metrics.jsonl; infinite for one that can't be read."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
