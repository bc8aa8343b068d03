"""A run that goes on from a checkpoint is the run that never stopped."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_runs import config, run_toy
from engine_toy import ToyTask

from vlpretrain.config.schema import CheckpointConfig
from vlpretrain.engine import checkpoint, list_checkpoints, weights
from vlpretrain.engine.state import find_damage
from vlpretrain.errors import UserError


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_resumed_run_equals_one_never_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: int, precision: str
) -> None:
    settings = config(stage, precision, micro_batch=4, ema=0.9, every=4)
    averages: list[dict[str, torch.Tensor]] = []
    whole = run_toy(
        tmp_path / "whole",
        settings,
        8,
        at_end=lambda engine: averages.append(weights(engine, averaged=True)),
    )
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed/checkpoints/step-8")
    resumed = run_toy(
        tmp_path / "resumed",
        settings,
        8,
        at_end=lambda engine: averages.append(weights(engine, averaged=True)),
    )
    assert "going on from" in capsys.readouterr().out
    assert len(whole.losses) == 8
    assert resumed.losses == whole.losses
    for name, tensor in averages[0].items():
        assert torch.equal(tensor, averages[1][name]), name


def test_a_checkpoint_goes_on_at_another_stage(tmp_path: Path) -> None:
    whole = run_toy(tmp_path / "whole", config(0, every=4), 8)
    for stage in (1, 2, 3):
        out = tmp_path / f"stage{stage}"
        shutil.copytree(tmp_path / "whole", out)
        shutil.rmtree(out / "checkpoints/step-8")
        resumed = run_toy(out, config(stage, every=4), 8)
        assert resumed.losses == pytest.approx(whole.losses, rel=1e-5)


def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(every=3)
    whole = run_toy(tmp_path, settings, 6)
    weights_file = tmp_path / "checkpoints/step-6/master.safetensors"
    content = bytearray(weights_file.read_bytes())
    content[-1] ^= 1
    weights_file.write_bytes(content)
    resumed = run_toy(tmp_path, settings, 6)
    assert (
        "step-6 is left out: master.safetensors is not what was written" in capsys.readouterr().out
    )
    assert resumed.losses == whole.losses


def test_what_a_killed_run_left_unfinished_is_no_checkpoint(tmp_path: Path) -> None:
    settings = config(every=3)
    run_toy(tmp_path, settings, 6)
    (tmp_path / "checkpoints/step-6").rename(tmp_path / "checkpoints/step-6.partial")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"split": "train", "st')
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-3"]
    resumed = run_toy(tmp_path, settings, 6)
    assert [line["step"] for line in resumed.lines] == [1, 2, 3, 4, 5, 6]
    assert not list((tmp_path / "checkpoints").glob("*.partial"))


def test_only_the_newest_are_kept_and_each_is_whole(tmp_path: Path) -> None:
    run_toy(tmp_path, config(every=2), 9)
    kept = list_checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in kept] == ["step-9", "step-8"]
    assert [find_damage(path) for path in kept] == ["", ""]
    state = json.loads((kept[0] / "state.json").read_text())
    assert state["samples_seen"] == 9 * 8
    assert state["progress"]["skipped"] == 1


def test_never_refuses_a_folder_with_checkpoints(tmp_path: Path) -> None:
    run_toy(tmp_path, config(), 2)
    settings = replace(config(), checkpoint=CheckpointConfig(resume="never"))
    with pytest.raises(UserError, match="the newest step-2"):
        run_toy(tmp_path, settings, 2)


def test_another_architecture_is_named_by_its_parameters(tmp_path: Path) -> None:
    run_toy(tmp_path, config(), 1)
    with pytest.raises(UserError, match=r"image\.0\.weight: \(16, 48\) in the checkpoint"):
        run_toy(tmp_path, config(), 2, task=ToyTask(width=8))


def test_another_global_batch_is_refused(tmp_path: Path) -> None:
    run_toy(tmp_path, config(), 1)
    other = replace(config(), train=replace(config().train, global_batch=4))
    with pytest.raises(UserError, match=r"train\.global_batch 8"):
        run_toy(tmp_path, other, 2)


def test_a_full_disk_leaves_older_checkpoints_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_toy(tmp_path, config(every=2), 2)

    def no_space(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", no_space)
    with pytest.raises(UserError, match="the disk is full"):
        run_toy(tmp_path, config(every=2), 4)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-2"]
