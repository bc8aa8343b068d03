"""What a user's mistakes leave behind: one message, exit code 2, and nothing half-changed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools import cli as tools_cli
from data_tools.cli import main as data_tools
from vlpretrain.build import build_tokeniser, open_sources
from vlpretrain.cli.summary import Summary, describe_source
from vlpretrain.config.load import parse_yaml
from vlpretrain.config.schema import DataConfig
from vlpretrain.engine import RunFolder
from vlpretrain.errors import UserError

CONFIG = """
data: {image_size: 32, vocab_size: 150, workers: 0}
model:
  embed_dim: 16
  vision: {name: vit_tiny_patch16_224, width: 16, depth: 1, heads: 2, patch: 8}
  text: {depth: 1, width: 16, heads: 2}
  fusion: {depth: 1, width: 16, heads: 2}
objectives: {mim: {block: 8}}
train: {global_batch: 8, steps: 2}
"""


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    wanted = ["--samples", "8", "--shard-size", "4", "--image-size", "32"]
    assert data_tools(["synth", "--out", str(folder), *wanted]) == 0
    return folder


@pytest.mark.distributed
def test_two_ranks_say_a_mistake_once_and_last(tmp_path: Path, shards: Path) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "vlpretrain.cli.launch", "pretrain", "run.yaml"]
    wrong = ["--model.vision.name", "vit_tny_patch16_224", "--data.train", str(shards)]
    done = subprocess.run(
        [*command, *wrong, "--processes", "2", "--out", "run"],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 2
    assert said.count("timm has no model 'vit_tny_patch16_224'") == 1
    assert said.strip().splitlines()[-1].startswith("  fix: the nearest names: vit_tiny_patch16_")
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_refused_run_leaves_the_folder_of_the_run_before_as_it_was(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, "first: 1\n", tensorboard=False)
    first.begin(0)
    first.log({"step": 1, "loss": 2.0})
    second = RunFolder(tmp_path, "second: 2\n", tensorboard=False)
    assert (tmp_path / "config.yaml").read_text() == "first: 1\n"
    second.begin(0)
    assert (tmp_path / "config.yaml").read_text() == "second: 2\n"
    assert first.metrics.read_text() == ""


def test_what_the_disk_refuses_names_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path, "", tensorboard=False)
    run.begin(0)
    monkeypatch.setattr(Path, "open", full_disk)
    with pytest.raises(UserError, match=r"metrics\.jsonl: can't be written: No space left"):
        run.log({"step": 1})


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_data_tools_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tools_cli, "synthesise", full_disk)
    assert data_tools(["synth", "--out", str(tmp_path / "new"), "--samples", "3"]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'new'}: No space left on device" in said
    assert "fix: the disk is full" in said


def test_shards_without_a_sample_are_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"(?s)no sample in 1 shards.*a\.tar") as caught:
        open_sources([str(tmp_path)], DataConfig())
    assert "validate" in caught.value.fix


def test_a_run_says_which_records_it_leaves_out(shards: Path) -> None:
    shard = sorted(shards.glob("*.tar"))[1]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    (source,) = open_sources([str(shards)], DataConfig())
    data = {"samples": 7, "shards": 2, "run_folder": "", "sources": [describe_source(source)]}
    summary = Summary([], data, {}, ["weights of x: 3 tensors loaded"], 0, {}, 1)
    said = "\n".join(summary.lines())
    assert "1 records can't be used" in said
    assert shard.name in said
    assert "weights of x: 3 tensors loaded" in said


def test_init_wants_an_export(tmp_path: Path) -> None:
    config = parse_yaml(f"{{data: {{train: x}}, init: {tmp_path}}}")
    with pytest.raises(UserError, match=r"no exported model.*vlpretrain\.json"):
        build_tokeniser(config, [])
