"""A whole run as a user starts it: through DeepSpeed's launcher, on a rendered data set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_tools.cli import main as data_tools
from vlpretrain import VLModel
from vlpretrain.cli.main import main
from vlpretrain.config.load import read_yaml

CONFIG = """
data: {image_size: 32, vocab_size: 150, workers: 0}
model:
  embed_dim: 16
  vision: {name: vit_tiny_patch16_224, width: 32, depth: 1, heads: 2, patch: 8}
  text: {depth: 1, width: 32, heads: 2}
  fusion: {depth: 1, width: 32, heads: 2}
objectives: {mim: {block: 8}}
train: {global_batch: 8, steps: 2}
log: {every: 1, tensorboard: false}
evaluation: {samples: 8, batch: 8}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration, and shards to train on."""
    home = tmp_path_factory.mktemp("pretrain")
    (home / "run.yaml").write_text(CONFIG)
    shards = ["--out", str(home / "shards"), "--samples", "20", "--image-size", "32"]
    assert data_tools(["synth", *shards]) == 0
    return home


def arguments(home: Path) -> list[str]:
    shards = str(home / "shards")
    return [str(home / "run.yaml"), "--data.train", shards, "--data.val", shards]


def run_pretraining(home: Path, *more: str) -> str:
    command = [sys.executable, "-m", "vlpretrain.cli.launch", "pretrain", *arguments(home)]
    done = subprocess.run(
        [*command, "--out", str(home / "run"), *more],
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.distributed
def test_a_run_ends_with_a_model_and_goes_on_with_other_ranks(home: Path) -> None:
    run = home / "run"
    said = run_pretraining(home, "--processes", "2")
    assert said.count("done after 2 steps") == 1
    assert read_yaml(run / "config.yaml").train.global_batch == 8
    model = VLModel.from_pretrained(run / "export")
    similarity = model.encode_image(torch.zeros(1, 3, 40, 50, dtype=torch.uint8)) @ (
        model.encode_text(["a red circle"]).T
    )
    assert similarity.shape == (1, 1)
    assert "<svg" in (run / "report.html").read_text()

    tokenizer = (run / "tokenizer" / "tokenizer.json").read_bytes()
    said = run_pretraining(home, "--processes", "1", "--train.steps", "3")
    assert "step-2" in said
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2, 3]
    assert (run / "tokenizer" / "tokenizer.json").read_bytes() == tokenizer


def test_doctor_counts_what_there_is(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *arguments(home), "--ranks", "2"]) == 0
    said = capsys.readouterr().out
    for expected in ("20 samples, 1 shards", "2.5 steps", "8 = 4 at once x 2 ranks", "no problem"):
        assert expected in said


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (["--train.global-batch", "7"], "can't be divided by 2 ranks"),
        (["--data.train", "{home}/absent"], "absent"),
        (["--model.vision.name", "vit_tiny_patch16_225"], "vit_tiny_patch16_224"),
        (["--data.image-size", "36"], "does not divide"),
    ],
)
def test_doctor_names_a_problem_and_its_fix(
    home: Path, change: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change = [word.format(home=home) for word in change]
    assert main(["doctor", *arguments(home), "--ranks", "2", *change]) == 1
    said = capsys.readouterr().out
    assert expected in said
    assert "fix:" in said


def test_doctor_names_broken_samples(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shard,) = (home / "shards").glob("*.tar")
    broken = home / "broken"
    broken.mkdir()
    (broken / "cut.tar").write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    assert main(["doctor", str(home / "run.yaml"), "--data.train", str(broken)]) == 1
    said = capsys.readouterr().out
    assert "cut.tar" in said
    assert "data_tools validate" in said
