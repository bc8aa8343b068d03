"""Shares side by side as SVG geometry: a bar each, its interval as a whisker, its chance a mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vlpretrain.report.charts import Axis, Tick, nice_ticks
from vlpretrain.report.values import Interval, percent, percent_interval

# In SVG units, as charts.py: about a phone's width.
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 420.0, 4.0, 14.0, 4.0, 24.0
ROW, BAR_TOP, BAR_HEIGHT = 46.0, 20.0, 16.0
# A full axis, unless every share is a small part of it.
SMALL_SHARE = 0.5


@dataclass(frozen=True)
class Given:
    """A share to draw; `level` is what it is compared with."""

    label: str
    value: float
    interval: Interval | None = None
    level: float | None = None
    kind: Literal["own", "other"] = "own"


@dataclass(frozen=True)
class Bar:
    """A drawn share: places on the canvas, from left and top."""

    label: str
    text: str
    kind: str
    top: float
    end: float
    whisker: tuple[float, float] | None
    level_place: float | None


@dataclass(frozen=True)
class BarPicture:
    """A drawn figure; `said` is what it shows in words."""

    title: str
    said: str
    height: float
    start: float
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]


def draw_bars(title: str, given: Sequence[Given]) -> BarPicture | None:
    """Draws at least one share, from top to bottom in the order given."""
    if not given:
        return None
    axis = Axis(0.0, _end(given), LEFT, WIDTH - RIGHT)
    bars = tuple(_bar(one, axis, TOP + row * ROW) for row, one in enumerate(given))
    ticks = [Tick(_place(axis, at), f"{100 * at:g} %") for at in nice_ticks(0.0, axis.high)]
    return BarPicture(
        title=title,
        said="; ".join(f"{bar.label} {bar.text}" for bar in bars),
        height=TOP + len(bars) * ROW + BOTTOM,
        start=LEFT,
        bars=bars,
        ticks=tuple(ticks),
    )


def _end(given: Sequence[Given]) -> float:
    shown = [one.value for one in given]
    shown += [one.interval[1] for one in given if one.interval]
    shown += [one.level for one in given if one.level is not None]
    largest = max(shown)
    return 1.0 if largest > SMALL_SHARE else max(0.02, 1.15 * largest)


def _bar(one: Given, axis: Axis, top: float) -> Bar:
    within = percent_interval(one.interval)
    return Bar(
        label=one.label,
        text=percent(one.value) + (f" ({within})" if within else ""),
        kind=one.kind,
        top=top,
        end=_place(axis, one.value),
        whisker=(_place(axis, one.interval[0]), _place(axis, one.interval[1]))
        if one.interval
        else None,
        level_place=_place(axis, one.level) if one.level is not None else None,
    )


def _place(axis: Axis, value: float) -> float:
    return round(
        axis.start + (value - axis.low) / (axis.high - axis.low) * (axis.end - axis.start), 1
    )
