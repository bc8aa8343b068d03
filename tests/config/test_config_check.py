"""What the fields must be together is said before anything is built."""

from __future__ import annotations

import math
import operator

import pytest

from vlpretrain.config.check import LIMITS, check, micro_batch_size, problems
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


@pytest.mark.parametrize(
    ("batch", "micro", "ranks", "expected"),
    [(256, 0, 8, 32), (256, 16, 4, 16), (6, 0, 3, 2), (256, 0, 3, None), (256, 100, 1, None)],
)
def test_the_global_batch_is_divided_or_refused(
    batch: int, micro: int, ranks: int, expected: int | None
) -> None:
    run = config(f"--train.global-batch={batch}", f"--train.micro-batch={micro}")
    if expected is None:
        with pytest.raises(UserError, match=f"{batch} can't be divided over {ranks} rank"):
            micro_batch_size(run, ranks)
    else:
        assert micro_batch_size(run, ranks) == expected


def test_the_fix_for_a_batch_is_itself_no_problem() -> None:
    for batch in range(2, 70):
        for problem in problems(config(f"--train.global-batch={batch}"), world_size=3):
            if problem.fix.startswith("--train.global-batch"):
                fixed = problems(config(*problem.fix.split()), world_size=3)
                assert not any("divided" in str(other) for other in fixed)


def test_every_limit_is_of_a_field_and_holds_its_default() -> None:
    for path, (low, high) in LIMITS.items():
        assert low <= operator.attrgetter(path)(RunConfig()) <= high
        assert math.isfinite(low)
