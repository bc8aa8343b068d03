"""Runs of the command lines for questions, in this process or in others, and what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from vlpretrain.cli.evaluate import run_evaluation
from vlpretrain.cli.launch import check_command, read_command_config
from vlpretrain.cli.train import run_training

# Of processes that are started here: before this one joins a group of its own.
ENVIRONMENT = {
    **os.environ,
    "DS_ACCELERATOR": "cpu",
    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
}


def data(home: Path) -> list[str]:
    return ["--data.train", str(home / "train"), "--data.val", str(home / "val")]


def run(command: str, home: Path, *arguments: str) -> None:
    """What a rank does with a command line."""
    config = read_command_config(command, [str(home / "run.yaml"), *arguments])
    check_command(command, config, processes=1)
    assert (run_evaluation if command == "evaluate" else run_training)(config) == 0


def finetuned(home: Path, name: str, *arguments: str) -> Path:
    """The folder of a run that started from the pretrained model."""
    out = home / name
    init = ["--init", str(home / "pre/export")]
    run("finetune", home, *data(home), *init, "--out", str(out), *arguments)
    return out


def evaluate(home: Path, run_folder: Path, out: Path, *arguments: str) -> None:
    init = ["--init", str(run_folder / "export"), "--data.val", str(home / "val")]
    run("evaluate", home, *init, "--out", str(out), *arguments)


def record_of(run_folder: Path) -> dict[str, Any]:
    return json.loads((run_folder / "evaluation/vqa.json").read_text())


def results_of(run_folder: Path) -> list[dict[str, Any]]:
    return json.loads((run_folder / "evaluation/vqa_results.json").read_text())


def lines_of(run_folder: Path, split: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def losses_of(run_folder: Path) -> list[float]:
    return [line["loss"] for line in lines_of(run_folder, "train")]


def launch(command: str, home: Path, *arguments: str) -> None:
    """A command in processes of its own."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "vlpretrain.cli.launch",
            command,
            str(home / "run.yaml"),
            *arguments,
        ],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
