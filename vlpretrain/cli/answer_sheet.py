"""The answers to a search as one picture.

Shapes: C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw
from torch import Tensor

from vlpretrain.lettering import cut, font, wrap

# All in pixels.
PICTURE, MARGIN, LINE = 240, 20, 20
TITLE_LINES, TITLE_LINE = 2, 26
TITLE_SIZE, NAME_SIZE, SMALL_SIZE, RANK_SIZE = 19, 13, 12, 14
COLUMNS = 5
TILE_HEIGHT = PICTURE + 6 + 2 * LINE

PAPER, INK, PALE_INK, BADGE, BADGE_INK = "#ffffff", "#1c1f23", "#6b737c", "#1f6f78", "#ffffff"
BADGE_HEIGHT, BADGE_PAD = 24, 8


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture with what stands below it."""

    pixels_CHW: Tensor  # uint8 RGB, PICTURE a side
    name: str
    score: str


def draw_answers(title: str, tiles: Sequence[Tile]) -> Image.Image:
    """The title, and the tiles in rows, the best first; each with its rank in a corner."""
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    width = MARGIN + columns * (PICTURE + MARGIN)
    lines = wrap(title, font(TITLE_SIZE), width - 2 * MARGIN, TITLE_LINES)
    top = MARGIN + TITLE_LINE * len(lines) + MARGIN // 2
    sheet = Image.new("RGB", (width, top + rows * (TILE_HEIGHT + MARGIN)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        pen.text((MARGIN, MARGIN + TITLE_LINE * number), line, INK, font(TITLE_SIZE))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left = MARGIN + column * (PICTURE + MARGIN)
        _draw_tile(sheet, pen, tile, number + 1, (left, top + row * (TILE_HEIGHT + MARGIN)))
    return sheet


def _draw_tile(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, rank: int, place: tuple[int, int]
) -> None:
    left, top = place
    picture_HWC = tile.pixels_CHW.permute(1, 2, 0).contiguous().numpy()
    sheet.paste(Image.fromarray(picture_HWC), place)
    right = left + round(font(RANK_SIZE).getlength(str(rank))) + 2 * BADGE_PAD
    pen.rectangle((left, top, right, top + BADGE_HEIGHT), fill=BADGE)
    pen.text((left + BADGE_PAD, top + 4), str(rank), BADGE_INK, font(RANK_SIZE))
    below = top + PICTURE + 6
    pen.text((left, below), _end(tile.name), INK, font(NAME_SIZE))
    score = cut(tile.score, font(SMALL_SIZE), PICTURE)
    pen.text((left, below + LINE), score, PALE_INK, font(SMALL_SIZE))


def _end(name: str) -> str:
    """A file's name on one line, shortened from the front: its end tells it from others."""
    name = " ".join(name.split())
    if font(NAME_SIZE).getlength(name) <= PICTURE:
        return name
    while name and font(NAME_SIZE).getlength("…" + name) > PICTURE:
        name = name[1:]
    return "…" + name
