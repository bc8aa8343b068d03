"""Masked images alone, then classes: as a user starts it, through DeepSpeed's launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from labelled_shards import write_labelled
from safetensors.torch import load_file

from vlpretrain import VLModel

pytestmark = pytest.mark.distributed

CONFIG = """
data: {image_size: 32, vocab_size: 150, workers: 0}
model:
  embed_dim: 16
  vision: {name: vit_tiny_patch16_224, width: 32, depth: 2, heads: 2, patch: 8}
  text: {depth: 1, width: 32, heads: 2}
  fusion: {depth: 1, width: 32, heads: 2}
objectives: {mim: {block: 8}, itm: {weight: 0}, itc: {weight: 0}, mlm: {weight: 0}}
optim: {lr: 1e-3, layer_decay: 0.8}
train: {global_batch: 12, precision: fp32}
log: {every: 1, tensorboard: false}
evaluation: {samples: 0, batch: 8}
"""
CLASSES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of pictures without a word, labelled ones, and a model pretrained on the first."""
    home = tmp_path_factory.mktemp("classification")
    (home / "run.yaml").write_text(CONFIG)
    write_labelled(home / "pictures", [None] * 16)
    write_labelled(home / "train", CLASSES * 8)
    write_labelled(home / "val", [*CLASSES * 6, "broken"])
    launch(home, "pretrain", "mim", train="pictures", more=["--train.steps", "2"])
    return home


def launch(home: Path, command: str, out: str, train: str = "train", more: list[str] = []) -> str:  # noqa: B006
    words = [command, str(home / "run.yaml"), "--data.train", str(home / train)]
    words += ["--data.val", str(home / ("pictures" if command == "pretrain" else "val"))]
    if command != "pretrain":
        words += ["--task.name", "classification"]
    done = subprocess.run(
        [sys.executable, "-m", "vlpretrain.cli.launch", *words, "--out", str(home / out), *more],
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def record_of(run: Path) -> dict:
    return json.loads((run / "evaluation" / "classification.json").read_text())


def test_a_tower_of_masked_images_is_fine_tuned_resumed_and_judged(home: Path) -> None:
    init = ["--init", str(home / "mim" / "export")]
    three = ["--processes", "2", "--train.steps", "3", "--checkpoint.every", "3"]
    said = launch(home, "finetune", "fine", more=[*init, *three])
    assert "classes: 3: blue, green, red" in said
    assert said.count("done after 3 steps") == 1

    more = ["--train.steps", "25", "--deepspeed.zero_stage", "2", "--processes", "1"]
    said = launch(home, "finetune", "fine", more=[*init, *more])
    assert "step-3" in said
    lines = [json.loads(row) for row in (home / "fine" / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["split"] == "train"]
    assert [line["step"] for line in train] == list(range(1, 26))
    assert train[-1]["loss/classification"] < train[0]["loss/classification"]
    (val,) = [line for line in lines if line["split"] == "val" and line["step"] == 25]
    assert val["val/top1"] == 1.0
    record = record_of(home / "fine")
    assert (record["num_images"], record["num_left_out"]) == (18, 1)

    fine = ["--init", str(home / "fine" / "export")]
    said = launch(home, "evaluate", "judged", more=[*fine, "--processes", "2"])
    assert "val/top1" in said
    again = record_of(home / "judged")
    assert again["per_class"] == record["per_class"]
    for one, other in zip(again["examples"], record["examples"], strict=True):
        assert one["label"] == other["label"]
        assert one["top"][0]["score"] == pytest.approx(other["top"][0]["score"], rel=1e-4)
    model = VLModel.from_pretrained(home / "fine" / "export")
    picture = torch.tensor([220, 30, 30], dtype=torch.uint8).view(3, 1, 1).expand(3, 40, 40)
    assert model.classify(picture)[0][0].name == "red"


def test_a_probe_leaves_the_pretrained_model_as_it_is(home: Path) -> None:
    init = home / "mim" / "export"
    mode = ["--task.classification.mode", "linear_probe", "--task.classification.pool", "patches"]
    more = [*mode, "--train.steps", "2", "--processes", "2", "--deepspeed.zero_stage", "3"]
    launch(home, "finetune", "probe", more=["--init", str(init), *more])
    before = load_file(init / "model.safetensors")
    after = load_file(home / "probe" / "export" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert record_of(home / "probe")["mode"] == "linear_probe"
