"""The costs that doctor names follow from the sizes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vlpretrain.cli.cost import amount, busiest_point, estimate_memory
from vlpretrain.config.schema import DeepSpeedConfig, TrainConfig
from vlpretrain.objectives.pretrain import Schedule


def total(stage: int, ranks: int, precision: str = "bf16", activations: float = 0.0) -> float:
    train = TrainConfig(precision=precision)  # type: ignore[arg-type]
    zero = DeepSpeedConfig(zero_stage=stage)  # type: ignore[arg-type]
    return estimate_memory(1000, activations, 4, ranks, train, zero).total


def test_sharding_divides_what_the_stage_says() -> None:
    assert total(0, 4) == 1000 * (2 + 4 + 12)
    assert total(1, 4) == 1000 * (2 + 4 + 12 / 4)
    assert total(2, 4) == 1000 * (2 + 4 / 4 + 12 / 4)
    assert total(3, 4) == 1000 * (2 + 4 + 12) / 4
    assert total(0, 1, "fp32") == 1000 * (4 + 4 + 8)


def test_on_one_rank_no_stage_saves_anything() -> None:
    assert len({total(stage, 1) for stage in range(4)}) == 1


def test_activations_grow_with_the_micro_batch_and_halve_in_bf16() -> None:
    assert total(0, 1, "fp32", 100.0) - total(0, 1, "fp32") == 4 * 100.0
    assert total(0, 1, "bf16", 100.0) - total(0, 1, "bf16") == 4 * 50.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (123_456_789, "123 MB"), (9.9e20, "990000 PB")],
)
def test_amounts_have_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert amount(value, "B") == text


def test_the_step_is_measured_where_most_objectives_are_on() -> None:
    late = Schedule(start=0.25, ramp=0.05)
    task = SimpleNamespace(schedules={"mim": Schedule(stop=0.5), "itc": late, "itm": late})
    assert busiest_point(task) == pytest.approx(0.3)  # type: ignore[arg-type]
    task = SimpleNamespace(schedules={"mim": Schedule()})
    assert busiest_point(task) == 0.0  # type: ignore[arg-type]
