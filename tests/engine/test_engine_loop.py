"""The step, the average, the evaluation and the run folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import config, run_toy
from engine_toy import ToyLoader, ToyTask
from torch import Tensor

from vlpretrain.engine import Engine, export, start_engine, weights
from vlpretrain.engine.contrast import gather_parts
from vlpretrain.engine.ema import decay_at
from vlpretrain.engine.loop import meet_others, prepare_batches, train_step
from vlpretrain.engine.randomness import keyed_seed, seed_forward
from vlpretrain.types import Embeddings


def test_accumulation_does_not_change_the_curve(tmp_path: Path) -> None:
    curves = [
        run_toy(tmp_path / str(micro), config(micro_batch=micro), 20, ToyTask(dropout=0.0)).losses
        for micro in (8, 4, 2)
    ]
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    assert curves[2] == pytest.approx(curves[0], rel=1e-5)
    assert curves[0][-1] < curves[0][0]


def test_the_prepass_sees_what_the_second_pass_computes() -> None:
    engine = start_engine(ToyTask(dropout=0.5), config(micro_batch=4), 4)
    data = next(iter(ToyLoader(4, 2).steps(0, 1)))
    batches = prepare_batches(engine, data, 0, seed=0)
    for batch, others in zip(batches, meet_others(engine, batches), strict=True):
        assert others is not None
        seed_forward(batch.seed, 0)
        again = engine(batch, prepass=True).embeddings
        rows = slice(others.start, others.start + len(batch))
        assert again is not None
        assert torch.equal(others.text_BE[rows], again.text_BE)
    engine.close()


def test_parts_stand_in_the_order_of_the_global_batch() -> None:
    def part(first: int) -> Embeddings:
        rows = torch.arange(first, first + 2)
        return Embeddings(rows[:, None] * 1.0, rows[:, None] * 2.0, rows >= 0, rows, rows)

    parts = gather_parts([part(0), part(2), part(4)])
    assert [p.start for p in parts] == [0, 2, 4]
    assert all(p.num_parts == 3 for p in parts)
    assert parts[0].image_id_B.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_average_is_that_of_the_weights_after_each_step(stage: int) -> None:
    settings = config(stage, ema=0.5)
    engine = start_engine(ToyTask(), settings, 4)
    expected = weights(engine)
    for step, data in enumerate(ToyLoader(8, 1).steps(0, 4)):
        train_step(engine, data, step, settings)
        for name, weight in weights(engine).items():
            expected[name] = expected[name].lerp(weight, 1 - decay_at(step, 0.5))
    for name, average in weights(engine, averaged=True).items():
        torch.testing.assert_close(average, expected[name], rtol=1e-6, atol=1e-7)
    engine.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_training_starts_from_the_tasks_own_weights(stage: int, precision: str) -> None:
    before = {name: tensor.clone() for name, tensor in ToyTask().state_dict().items()}
    engine = start_engine(ToyTask(), config(stage, precision), 4)
    found = weights(engine)
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], before[name]) for name in before)
    engine.close()


def test_an_average_is_exported_beside_the_last_weights(tmp_path: Path) -> None:
    saved: dict[str, dict[str, Tensor]] = {}

    def save(state_dict: dict[str, Tensor], folder: Path) -> None:
        saved[folder.name] = state_dict

    def at_end(engine: Engine) -> None:
        export(engine, tmp_path / "export", save)

    run_toy(tmp_path, config(ema=0.9), 3, at_end=at_end)
    assert saved.keys() == {"export", "export-last"}
    key = "image.0.weight"
    assert not torch.equal(saved["export"][key], saved["export-last"][key])


def test_the_run_folder_tells_the_run(tmp_path: Path) -> None:
    training: list[bool] = []

    def evaluator(task: Any, folder: Path) -> dict[str, float]:
        training.append(task.training or torch.is_grad_enabled())
        (folder / "picture.txt").write_text("x")
        return {"val/accuracy": 0.5}

    settings = config()
    settings = replace(settings, evaluation=replace(settings.evaluation, every=2))
    settings = replace(settings, log=replace(settings.log, tensorboard=True))
    run = run_toy(tmp_path, settings, 4, evaluator=evaluator)
    assert training == [False, False]
    first = run.lines[0]
    assert {"step", "samples_seen", "loss", "loss/itc", "lr", "grad_norm"} < first.keys()
    assert {"samples_per_second", "seconds", "split"} < first.keys()
    val = [line for line in run.lines if line["split"] == "val"]
    expected = {"split": "val", "step": 2, "samples_seen": 16, "val/accuracy": 0.5}
    assert val[0] == expected
    assert len(val) == 2
    assert (tmp_path / "config.yaml").read_text() == "toy: true\n"
    assert json.loads((tmp_path / "environment.json").read_text())["ranks"] == 1
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert json.loads((tmp_path / "skipped.jsonl").read_text())["reason"] == "no picture"


def test_seeds_differ_by_every_part_of_their_key() -> None:
    keys = [(s, step, micro) for s in range(5) for step in range(20) for micro in range(4)]
    assert len({keyed_seed(*key) for key in keys}) == len(keys)
    assert keyed_seed(1, 23) != keyed_seed(12, 3)
