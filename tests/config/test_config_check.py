"""What the fields must be together is said before anything is built."""

from __future__ import annotations

import math
import operator

import pytest

from vlpretrain.config.check import LIMITS, check, check_evaluation, problems
from vlpretrain.config.load import override
from vlpretrain.config.schema import RunConfig
from vlpretrain.errors import UserError


def config(*overrides: str) -> RunConfig:
    return override(RunConfig(), ["--data.train", "shards", *overrides])


def test_the_defaults_need_nothing_but_data() -> None:
    assert problems(config(), world_size=8) == []
    with pytest.raises(UserError, match=r"data\.train"):
        check(RunConfig())


@pytest.mark.parametrize(
    ("overrides", "where", "value"),
    [
        (["--model.vision.patch", "15"], "model.vision.patch", "15"),
        (["--data.image-size", "100"], "objectives.mim.block", "100"),
        (["--model.vision.patch", "14", "--data.image-size", "224"], "objectives.mim.block", "14"),
        (["--data.max-tokens", "2"], "data.max_tokens", "2"),
        (["--data.weights", "1", "2"], "data.weights", "2 weights for 1"),
        (["--data.weights", "-1"], "data.weights", "-1"),
        (["--data.crop-area", "0.9", "0.5"], "data.crop_area", "0.9"),
        (["--optim.lr", "nan"], "optim.lr", "nan"),
        (["--optim.min-lr", "1"], "optim.min_lr", "1.0"),
        (["--optim.betas", "0.9", "1.0"], "optim.betas", "1.0"),
        (["--train.epochs", "0"], "train", "0"),
        (["--train.global-batch", "0"], "train.global_batch", "0"),
        (["--model.fusion.heads", "7"], "model.fusion.heads", "7"),
        (["--deepspeed.offload", "cpu", "--deepspeed.zero-stage", "0"], "deepspeed.offload", "1"),
        (["--objectives.itm.schedule.start", "1"], "objectives.itm.schedule", "1.0"),
        (["--objectives.mim.weight", "-1"], "objectives.mim.weight", "-1"),
    ],
)
def test_a_contradiction_is_named(overrides: list[str], where: str, value: str) -> None:
    found = problems(config(*overrides), world_size=1)
    assert where in [problem.where for problem in found]
    assert value in str(next(problem for problem in found if problem.where == where))


def test_a_run_needs_an_objective() -> None:
    off = [f"--objectives.{name}.weight=0" for name in ("mim", "itm", "itc", "mlm")]
    assert [problem.where for problem in problems(config(*off))] == ["objectives"]


def test_some_objective_runs_at_every_point() -> None:
    late = [f"--objectives.{name}.schedule.start=0.25" for name in ("itm", "itc", "mlm")]
    assert problems(config(*late)) == []
    assert problems(config(*late, "--objectives.mim.schedule.stop=0.5")) == []
    (problem,) = problems(config(*late, "--objectives.mim.weight=0"))
    assert "at 0 of the run" in problem.problem
    (problem,) = problems(config(*late, "--objectives.mim.schedule.stop=0.2"))
    assert "at 0.2 of the run" in problem.problem


@pytest.mark.parametrize(
    ("batch", "micro", "ranks", "fits"),
    [
        (256, 0, 8, True),
        (256, 16, 4, True),
        (6, 0, 3, True),
        (256, 0, 3, False),
        (256, 96, 1, False),
    ],
)
def test_the_global_batch_is_divided_or_refused(
    batch: int, micro: int, ranks: int, fits: bool
) -> None:
    run = config(f"--train.global-batch={batch}", f"--train.micro-batch={micro}")
    assert (problems(run, ranks) == []) == fits


def test_matching_needs_two_samples_at_once() -> None:
    assert problems(config("--train.global-batch=4"), world_size=2) == []
    found = problems(config("--train.global-batch=4"), world_size=4)
    assert [problem.where for problem in found] == ["train.micro_batch"]


def test_every_limit_is_of_a_field_and_holds_its_default() -> None:
    for path, (low, high) in LIMITS.items():
        assert low <= operator.attrgetter(path)(RunConfig()) <= high
        assert math.isfinite(low)


@pytest.mark.parametrize("size", ["40", "100"])
def test_a_mask_block_is_asked_of_runs_that_hide_something(size: str) -> None:
    odd = ["--data.image-size", size, "--model.vision.patch", "4"]
    assert [one.where for one in problems(config(*odd))] == ["objectives.mim.block"]
    assert problems(config(*odd, "--task.name", "vqa")) == []
    assert problems(config(*odd, "--task.name", "classification")) == []


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (["--init", "export"], "data.val"),
        (["--data.val", "shards"], "init"),
        (["--data.val", "shards", "--init", "export"], "task.name"),
        (
            ["--data.val", "s", "--init", "e", "--task.name=vqa", "--evaluation.batch=0"],
            "evaluation",
        ),
    ],
)
def test_an_evaluation_needs_data_a_model_and_a_task(overrides: list[str], where: str) -> None:
    with pytest.raises(UserError) as caught:
        check_evaluation(override(RunConfig(), overrides))
    assert where in caught.value.where
    whole = ["--data.val", "shards", "--init", "export", "--task.name", "vqa"]
    check_evaluation(override(RunConfig(), whole))
