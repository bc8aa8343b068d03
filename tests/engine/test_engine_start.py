"""Before the first step: processes, groups, rates, and DeepSpeed's dictionary."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_runs import config
from engine_toy import ToyTask

from vlpretrain.config.deepspeed import deepspeed_dict, split_batch
from vlpretrain.config.schema import DeepSpeedConfig, OptimConfig, TrainConfig
from vlpretrain.engine import decay_groups, learning_rate
from vlpretrain.engine.processes import first_host, launch_environment
from vlpretrain.errors import UserError


def test_every_launcher_is_understood() -> None:
    assert launch_environment({})["WORLD_SIZE"] == "1"
    launched = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"}
    assert launch_environment(launched) == {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    slurm = {
        "SLURM_PROCID": "5",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NODELIST": "gpu[03-04]",
        "SLURM_JOB_ID": "77",
    }
    found = launch_environment(slurm)
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"]) == ("5", "8", "1")
    assert (found["LOCAL_WORLD_SIZE"], found["MASTER_ADDR"]) == ("4", "gpu03")
    assert launch_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"})["WORLD_SIZE"] == "1"
    assert launch_environment(slurm) == found  # every rank finds the same port


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [("a1", "a1"), ("a1,b2", "a1"), ("n[007,9-11],x", "n007"), ("q[3-4]", "q3")],
)
def test_the_first_host_of_a_slurm_list(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


def test_only_matrices_decay() -> None:
    task = ToyTask()
    decayed, undecayed = decay_groups(task, 0.05)
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        "image.0.weight",
        "image.3.weight",
        "text.1.weight",
        "regress.weight",
        "unused_at_first.weight",
    }
    assert undecayed["weight_decay"] == 0
    assert len(decayed["params"]) + len(undecayed["params"]) == len(names)


def test_the_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    optim = OptimConfig(lr=1.0, min_lr=0.1, warmup=0.1)
    rates = [learning_rate(step, 100, optim) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[55] == pytest.approx(0.55)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.1 < rates[-1] < 0.102
    assert learning_rate(0, 5, OptimConfig(lr=1.0, warmup=0.0)) == 1.0


def test_the_peak_is_held_and_then_the_whole_cosine_follows() -> None:
    optim = OptimConfig(lr=1.0, warmup=0.1, hold=0.5)
    rates = [learning_rate(step, 100, optim) for step in range(100)]
    assert rates[9:61] == [1.0] * 52
    assert rates[80] == pytest.approx(0.5)
    assert rates[60:] == sorted(rates[60:], reverse=True)
    always = [
        learning_rate(step, 10, OptimConfig(lr=1.0, warmup=0.0, hold=1.0)) for step in range(10)
    ]
    assert always == [1.0] * 10


@pytest.mark.parametrize(("batch", "micro", "ranks"), [(8, 0, 3), (8, 3, 1), (8, 8, 2), (0, 0, 1)])
def test_a_batch_that_cannot_be_divided_is_a_users_error(
    batch: int, micro: int, ranks: int
) -> None:
    with pytest.raises(UserError, match="fix:"):
        split_batch(TrainConfig(global_batch=batch, micro_batch=micro), ranks)


def test_deepspeeds_numbers_are_those_of_the_run() -> None:
    settings = deepspeed_dict(config(2, "bf16", micro_batch=2), ranks=2, on_gpu=False)
    assert settings["train_batch_size"] == 8
    assert settings["train_micro_batch_size_per_gpu"] == 2
    assert settings["gradient_accumulation_steps"] == 2
    assert settings["bf16"] == {"enabled": True}
    assert settings["zero_optimization"]["stage"] == 2
    assert settings["gradient_clipping"] == 1.0


@pytest.mark.parametrize(("stage", "on_gpu"), [(0, True), (2, False)])
def test_offload_is_refused_where_it_cannot_be_had(stage: int, on_gpu: bool) -> None:
    zero = DeepSpeedConfig(zero_stage=stage, offload="cpu")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"deepspeed\.offload"):
        deepspeed_dict(replace(config(), deepspeed=zero), ranks=1, on_gpu=on_gpu)
