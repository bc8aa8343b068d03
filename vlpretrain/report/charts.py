"""Figures over steps as SVG geometry: pure functions from numbers to places on a small canvas.

Colours and fonts belong to the page's style, so that a chart follows light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vlpretrain.report.records import Series

# The canvas in SVG units. About a phone's width, so that the labels stay readable there.
WIDTH, HEIGHT = 420.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 14.0, 28.0

# Columns that a long run is reduced to: about one for each of the canvas's units.
MAX_COLUMNS = 360
# The smoothed line forgets over this share of the run.
SMOOTHING = 0.05


@dataclass(frozen=True)
class Level:
    """A level to compare with, as chance."""

    value: float
    label: str


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    place: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A drawn figure. Paths are SVG path data; an empty path draws nothing."""

    title: str
    raw_path: str
    smooth_path: str
    dots: tuple[tuple[float, float], ...]
    val_path: str
    val_dots: tuple[tuple[float, float], ...]
    level_place: float | None
    level_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    latest: str
    num_non_finite: int


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to places on the canvas."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: np.ndarray) -> np.ndarray:
        share = (np.asarray(value, dtype=float) - self.low) / (self.high - self.low)
        return self.start + np.clip(share, -0.05, 1.05) * (self.end - self.start)


def draw_chart(title: str, train: Series, val: Series | None, level: Level | None) -> Chart:
    """Draws a figure of training and, where given, of held-out samples, beside a level."""
    step, low, high = reduce_columns(train)
    middle = (low + high) / 2
    smooth = smoothed(middle)
    shown_val = val if val is not None else Series(np.empty(0), np.empty(0))
    x = Axis(*x_range(train.step, shown_val.step), LEFT, WIDTH - RIGHT)
    y = Axis(*y_range(low, high, shown_val.value, level), HEIGHT - BOTTOM, TOP)
    is_line = np.isfinite(middle).sum() > 1
    return Chart(
        title=title,
        raw_path=svg_path(x.place(np.repeat(step, 2)), y.place(_interleave(low, high))),
        smooth_path=svg_path(x.place(step), y.place(smooth)) if is_line else "",
        dots=() if is_line else _dots(x.place(step), y.place(middle)),
        val_path=svg_path(x.place(shown_val.step), y.place(shown_val.value)),
        val_dots=_dots(x.place(shown_val.step), y.place(shown_val.value))[-MAX_COLUMNS:],
        level_place=float(y.place(np.array(level.value))) if level else None,
        level_label=f"{level.label} {format_number(level.value)}" if level else "",
        x_ticks=_ticks(x, step_label),
        y_ticks=_ticks(y, format_number),
        latest=_latest(train, val),
        num_non_finite=int((~np.isfinite(train.value)).sum()),
    )


def reduce_columns(series: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step, lowest and highest finite value of at most MAX_COLUMNS stretches of equal count.

    A stretch without a finite value is NaN in both, and so a gap in the line.
    """
    stretches = min(MAX_COLUMNS, len(series.step))
    if not stretches:
        return np.empty(0), np.empty(0), np.empty(0)
    start = np.linspace(0, len(series.step), stretches, endpoint=False).astype(int)
    finite = np.isfinite(series.value)
    low = np.minimum.reduceat(np.where(finite, series.value, np.inf), start)
    high = np.maximum.reduceat(np.where(finite, series.value, -np.inf), start)
    empty = ~np.isfinite(low)
    low, high = np.where(empty, np.nan, low), np.where(empty, np.nan, high)
    # A stretch stands at its last step, so that the line ends where the run does.
    end = np.append(start[1:], len(series.step)) - 1
    return series.step[end], low, high


def smoothed(value: np.ndarray) -> np.ndarray:
    """Exponential mean without a pull to zero at the start; NaN stays a gap."""
    keep = 1 - 1 / max(1.0, SMOOTHING * len(value))
    total = weight = 0.0
    result = np.full(len(value), np.nan)
    for index, item in enumerate(value):
        if math.isfinite(item):
            total, weight = keep * total + item, keep * weight + 1
            result[index] = total / weight
    return result


def x_range(*steps: np.ndarray) -> tuple[float, float]:
    together = np.concatenate(steps)
    low, high = float(together.min()), float(together.max())
    low = 0.0 if low < 0.2 * high else low
    return (low, high) if high > low else (low - 1, high + 1)


def y_range(
    low: np.ndarray, high: np.ndarray, val: np.ndarray, level: Level | None
) -> tuple[float, float]:
    """From the smallest to the largest value, without a few spikes that would flatten the rest."""
    levels = np.array([level.value] if level else [])
    values = np.concatenate([low, high, val, levels])
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    bottom, top = float(values.min()), float(values.max())
    usual = float(np.quantile(values, 0.97))
    if usual > 0 and top > 4 * usual:
        top = max(2 * usual, level.value if level else 0.0)
    if 0 <= bottom < 0.5 * top:
        bottom = 0.0
    margin = 0.06 * (top - bottom) or 0.05 * abs(top) or 0.5
    return (bottom if bottom == 0 else bottom - margin), top + margin


def svg_path(x: np.ndarray, y: np.ndarray) -> str:
    """Path data through the finite points; a new stroke after each gap."""
    parts, in_stroke = [], False
    for place_x, place_y in zip(x, y, strict=True):
        if math.isfinite(place_y):
            parts.append(f"{'L' if in_stroke else 'M'}{place_x:.1f} {place_y:.1f}")
        in_stroke = math.isfinite(place_y)
    return "".join(parts)


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) within low .. high."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    spacing = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / spacing - 1e-9)
    last = math.floor(high / spacing + 1e-9)
    return [index * spacing for index in range(first, last + 1)]


def format_number(value: float) -> str:
    """Three or four digits that a person reads at once; scientific only where it is shorter."""
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    if size >= 10_000:
        return f"{value:,.0f}"
    if value == 0 or size >= 0.001:
        digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 4
        text = f"{value:,.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def step_label(value: float) -> str:
    for size, suffix in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e6 if suffix == 'M' else 1e3):g}{suffix}"
    return f"{value:g}"


def _interleave(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.stack([low, high], axis=1).reshape(-1)


def _dots(x: np.ndarray, y: np.ndarray) -> tuple[tuple[float, float], ...]:
    finite = np.isfinite(y)
    return tuple(
        (round(float(a), 1), round(float(b), 1)) for a, b in zip(x[finite], y[finite], strict=True)
    )


def _ticks(axis: Axis, label: Callable[[float], str]) -> tuple[Tick, ...]:
    values = nice_ticks(axis.low, axis.high)
    return tuple(Tick(round(float(axis.place(np.array(v))), 1), label(v)) for v in values)


def _latest(train: Series, val: Series | None) -> str:
    last = train.last_finite()
    text = format_number(last) if last is not None else ""
    held_out = val.last_finite() if val is not None else None
    return f"{text} · held-out {format_number(held_out)}" if held_out is not None else text
