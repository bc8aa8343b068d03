"""Whole runs through the command line, several at once with a thread each; tables of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vlpretrain.metrics.interval import seed_interval

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """One run: a command of vlpretrain, its configuration, its folder and the changes to it."""

    command: str
    config: str
    out: Path
    changes: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        return (self.out / "export" / "vlpretrain.json").is_file() or (
            self.command == "evaluate" and (self.out / "report.html").is_file()
        )


def run_all(runs: Sequence[Run], parallel: int) -> None:
    """Runs what is not done yet, `parallel` at once; a folder that is done is taken as it is."""
    with ThreadPoolExecutor(parallel) as pool:
        for run, seconds in zip(runs, pool.map(run_one, runs), strict=True):
            print(f"{run.out}: {seconds / 60:.1f} min", flush=True)


def run_one(run: Run) -> float:
    """Seconds that it took. Raises RuntimeError with the end of its output where it fails."""
    if run.is_done:
        return 0.0
    run.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "vlpretrain.cli.main", run.command, run.config]
    command += ["--processes", "1", "--out", str(run.out), *run.changes]
    start = time.monotonic()
    log = run.out / "output.txt"
    with log.open("w") as output:
        done = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{log.read_text()[-2000:]}")
    return time.monotonic() - start


def last_figures(folder: Path) -> dict[str, float]:
    """The figures of the last evaluation of a run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("split") == "val"][-1]


def training_seconds(folder: Path) -> float:
    """Seconds of training, evaluations left out."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return float([line for line in lines if "seconds" in line][-1]["seconds"])


def table(rows: Mapping[str, Sequence[Path]], figures: Mapping[str, str]) -> str:
    """Markdown: a row for each name with mean and 95 % interval over its runs, in percent.

    Args:
        rows: folders of the runs by name, one a seed.
        figures: heading of each figure by its name in metrics.jsonl.
    """
    lines = [
        "| | seeds | " + " | ".join(figures.values()) + " |",
        "|---" * (len(figures) + 2) + "|",
    ]
    for name, folders in rows.items():
        found = [last_figures(folder) for folder in folders]
        cells = [_cell([one[figure] for one in found]) for figure in figures]
        lines.append(f"| {name} | {len(folders)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    over = seed_interval([100 * value for value in values])
    if over.interval is None:
        return f"{over.mean:.2f}"
    low, high = over.interval
    each = ", ".join(f"{100 * value:.2f}" for value in values)
    return f"{over.mean:.2f} [{low:.2f}, {high:.2f}] ({each})"
