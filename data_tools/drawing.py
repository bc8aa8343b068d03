"""Draws a scene as a PNG picture, with Pillow."""

from __future__ import annotations

import io
import math

from PIL import Image, ImageDraw

from data_tools.scenes import COLOURS, Scene, SceneObject

# Drawn this much larger, then averaged down: smooth edges.
OVERSAMPLING = 4
Point = tuple[float, float]


def draw_png(scene: Scene, size: int) -> bytes:
    """The scene as a square RGB picture of `size` pixels a side, PNG encoded."""
    side = size * OVERSAMPLING
    canvas = Image.new("RGB", (side, side), scene.background)
    pen = ImageDraw.Draw(canvas)
    for item in scene.objects:
        _draw_object(pen, item, side, scene.background)
    buffer = io.BytesIO()
    canvas.reduce(OVERSAMPLING).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def _draw_object(
    pen: ImageDraw.ImageDraw, item: SceneObject, side: int, background: tuple[int, int, int]
) -> None:
    left, top, right, bottom = (round(edge * side) for edge in item.box)
    box, fill = (left, top, right, bottom), COLOURS[item.colour]
    match item.shape:
        case "circle":
            pen.ellipse(box, fill=fill)
        case "square":
            pen.rectangle(box, fill=fill)
        case "ring":
            pen.ellipse(box, fill=fill)
            hole = (right - left) // 4
            pen.ellipse((left + hole, top + hole, right - hole, bottom - hole), fill=background)
        case shape:
            corners = {"triangle": TRIANGLE, "star": STAR, "cross": CROSS}[shape]
            width, height = right - left, bottom - top
            pen.polygon([(left + x * width, top + y * height) for x, y in corners], fill=fill)


def _star(points: int = 5, inner: float = 0.45) -> tuple[Point, ...]:
    """A star's corners, stretched to fill the unit square."""
    radii = [1.0 if corner % 2 == 0 else inner for corner in range(2 * points)]
    turns = [math.pi * corner / points for corner in range(2 * points)]
    xs = [radius * math.sin(turn) for radius, turn in zip(radii, turns, strict=True)]
    ys = [-radius * math.cos(turn) for radius, turn in zip(radii, turns, strict=True)]
    return tuple(
        ((x - min(xs)) / (max(xs) - min(xs)), (y - min(ys)) / (max(ys) - min(ys)))
        for x, y in zip(xs, ys, strict=True)
    )


# Corners in the unit square of an object's box, y downwards.
TRIANGLE: tuple[Point, ...] = ((0.5, 0.0), (1.0, 1.0), (0.0, 1.0))
STAR = _star()
_ARM = (0.32, 0.68)
CROSS: tuple[Point, ...] = (
    (_ARM[0], 0), (_ARM[1], 0), (_ARM[1], _ARM[0]), (1, _ARM[0]), (1, _ARM[1]), (_ARM[1], _ARM[1]),
    (_ARM[1], 1), (_ARM[0], 1), (_ARM[0], _ARM[1]), (0, _ARM[1]), (0, _ARM[0]), (_ARM[0], _ARM[0]),
)  # fmt: skip
