"""Recall over how many candidates the fusion reads again, as SVG geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vlpretrain.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Tick,
    format_number,
    nice_ticks,
    svg_path,
)
from vlpretrain.report.values import count, number, percent, records, share

MAX_POINTS = 40
# Labels of k stand at least this far apart, in SVG units.
LABEL_SPACE = 30.0
WAYS = ("image_to_text", "text_to_image")


@dataclass(frozen=True)
class Line:
    """A direction's curve."""

    path: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class CurveRow:
    """A point as text, for the table beside the curve."""

    k: str
    recalls: tuple[str, str]  # image to text, text to image
    seconds: str


@dataclass(frozen=True)
class Curve:
    """A drawn figure; `said` is what it shows in words."""

    said: str
    lines: tuple[Line, Line]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    rows: tuple[CurveRow, ...]


@dataclass(frozen=True)
class _Point:
    k: int
    recalls: tuple[float | None, float | None]
    seconds: float | None


def draw_curve(value: object) -> Curve | None:
    """Draws [{"k", "image_to_text", "text_to_image", "seconds"}]; None without a point.

    The places of k follow log(1 + k), so that 0, the dual encoder alone, has its place at the left.
    """
    points = _read_points(value)
    if not points:
        return None
    k = np.array([point.k for point in points], dtype=float)
    recall = np.array([point.recalls for point in points], dtype=float)  # NaN where absent
    x = Axis(0.0, math.log1p(max(k.max(), 1)), LEFT, WIDTH - RIGHT)
    y = Axis(*_recall_range(recall), HEIGHT - BOTTOM, TOP)
    place_x = x.place(np.log1p(k))
    lines = [_line(place_x, y.place(recall[:, way])) for way in range(len(WAYS))]
    rows = tuple(_row(point) for point in points)
    return Curve(
        said="; ".join(f"k {row.k}: {row.recalls[0]}, {row.recalls[1]}" for row in rows),
        lines=(lines[0], lines[1]),
        x_ticks=_k_ticks(place_x, points),
        y_ticks=tuple(
            Tick(round(float(y.place(np.array(at))), 1), f"{100 * at:g} %")
            for at in nice_ticks(y.low, y.high)
        ),
        rows=rows,
    )


def _read_points(value: object) -> list[_Point]:
    """Rising k; the first of two with the same k."""
    found: dict[int, _Point] = {}
    for entry in records(value):
        k = count(entry.get("k"))
        recalls = (share(entry.get(WAYS[0])), share(entry.get(WAYS[1])))
        if k is not None and recalls != (None, None):
            found.setdefault(k, _Point(k, recalls, number(entry.get("seconds"))))
    return [found[k] for k in sorted(found)][:MAX_POINTS]


def _recall_range(recall: np.ndarray) -> tuple[float, float]:
    low, high = float(np.nanmin(recall)), float(np.nanmax(recall))
    margin = 0.15 * (high - low) or 0.05
    return max(0.0, low - margin), min(1.0, high + margin)


def _line(x: np.ndarray, y: np.ndarray) -> Line:
    there = np.isfinite(y)
    dots = zip(x[there], y[there], strict=True)
    return Line(svg_path(x, y), tuple((round(float(a), 1), round(float(b), 1)) for a, b in dots))


def _k_ticks(place: np.ndarray, points: list[_Point]) -> tuple[Tick, ...]:
    """A label for each k that has the room, from the right: the largest is what is used."""
    ticks: list[Tick] = []
    for at, point in zip(place[::-1], points[::-1], strict=True):
        if not ticks or ticks[-1].place - at >= LABEL_SPACE:
            ticks.append(Tick(round(float(at), 1), f"{point.k:,}"))
    return tuple(ticks[::-1])


def _row(point: _Point) -> CurveRow:
    recalls = ["–" if recall is None else percent(recall) for recall in point.recalls]
    return CurveRow(
        k=f"{point.k:,}" if point.k else "0 (dual encoder)",
        recalls=(recalls[0], recalls[1]),
        seconds="–" if point.seconds is None else format_number(point.seconds),
    )
