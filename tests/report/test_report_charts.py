"""Curves: the same shape from one point to a million, and numbers that read at once."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlpretrain.report.charts import (
    MAX_COLUMNS,
    Level,
    draw_chart,
    format_number,
    nice_ticks,
    reduce_columns,
    smoothed,
)
from vlpretrain.report.records import Series, read_metrics

values = st.lists(st.floats(width=32), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(values, st.one_of(st.none(), st.floats(0, 100)))
def test_any_values_give_a_drawable_chart(items: list[float], level: float | None) -> None:
    series = Series(np.arange(len(items), dtype=float), np.array(items))
    chart = draw_chart("x", series, None, Level(level, "chance") if level is not None else None)
    places = re.findall(r"-?\d+\.\d+", chart.raw_path + chart.smooth_path)
    assert all(math.isfinite(float(place)) for place in places)
    assert bool(chart.raw_path) == bool(np.isfinite(series.value).any())


def test_a_million_steps_keep_their_extremes_in_few_points() -> None:
    value = np.sin(np.arange(1_000_000) / 5e4)
    value[123_456], value[765_432] = 3.0, -2.0
    step, low, high = reduce_columns(Series(np.arange(1_000_000.0), value))
    assert len(step) == MAX_COLUMNS
    assert (low.min(), high.max()) == (-2.0, 3.0)
    assert step[-1] == 999_999


def test_a_gap_without_finite_values_breaks_the_line() -> None:
    series = Series(np.arange(6.0), np.array([1.0, 2.0, np.nan, np.inf, 3.0, 4.0]))
    assert draw_chart("x", series, None, None).smooth_path.count("M") == 2


def test_smoothing_keeps_a_constant_and_starts_without_a_pull_to_zero() -> None:
    np.testing.assert_allclose(smoothed(np.full(200, 0.7)), 0.7)


def test_one_spike_does_not_flatten_the_curve() -> None:
    value = np.linspace(3, 1, 200)
    value[100] = 1e6
    chart = draw_chart("x", Series(np.arange(200.0), value), None, None)
    assert max(float(tick.label) for tick in chart.y_ticks) < 10


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_inside(low: float, width: float) -> None:
    high = low + width
    if high - low < 1e-9 * max(abs(low), 1):
        return
    ticks = nice_ticks(low, high)
    slack = 1e-6 * (high - low) + 1e-9 * abs(low)
    assert 1 <= len(ticks) <= 6
    assert all(low - slack <= tick <= high + slack for tick in ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.6365, "0.6365"),
        (0.25, "0.25"),
        (3e-4, "3e-4"),
        (1234.5, "1,234"),
        (45.678, "45.68"),
        (2_000_000.0, "2,000,000"),
        (0.0, "0"),
        (math.nan, "not finite"),
    ],
)
def test_numbers_read_at_once(value: float, text: str) -> None:
    assert format_number(value) == text


def test_what_a_killed_run_logged_past_its_checkpoint_is_superseded(tmp_path: Path) -> None:
    first = [{"step": step, "loss": 1.0} for step in (10, 20, 30, 40)]
    resumed = [{"step": step, "loss": 2.0} for step in (30, 35)]
    lines = [json.dumps(record) + "\n" for record in first]
    lines += ['{"step": 50, "lo\n', *(json.dumps(record) + "\n" for record in resumed)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert metrics.broken_lines == 1
    assert metrics.train["loss"].step.tolist() == [10, 20, 30, 35]
    assert metrics.train["loss"].value.tolist() == [1, 1, 2, 2]


def test_validation_lines_stay_apart_from_training(tmp_path: Path) -> None:
    lines = ['{"step": 10, "loss": 1}', '{"step": 10, "split": "val", "val/loss/itm": 0.5}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert set(metrics.train) == {"loss"}
    assert set(metrics.val) == {"val/loss/itm"}
