"""A picture of pictures: what is in the shards, with the captions below."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from PIL import Image, ImageDraw

from vlpretrain.lettering import cut, font, wrap
from vlpretrain.pixels import picture_pixels

COLUMNS = 6
# All in pixels.
TILE_WIDTH, PICTURE_HEIGHT, MARGIN = 236, 177, 18
TITLE_HEIGHT, LINE_HEIGHT, CAPTION_LINES = 44, 18, 4
TILE_HEIGHT = PICTURE_HEIGHT + 8 + LINE_HEIGHT * (CAPTION_LINES + 1)
MOST_ENLARGED = 2.0
MOST_PIXELS = 89_478_485  # Pillow's own limit for decompression bombs

PAPER, FRAME, INK, PALE_INK, ALARM = "#ffffff", "#eef0f2", "#1c1f23", "#7b838c", "#b3261e"


@dataclass(frozen=True, slots=True)
class Tile:
    """One sample of the sheet."""

    picture: bytes
    caption: str
    label: str


def draw_contact_sheet(tiles: list[Tile], title: str) -> Image.Image:
    """Pictures in rows of COLUMNS, each whole, its caption wrapped below it."""
    columns = max(1, min(COLUMNS, len(tiles)))
    rows = max(1, -(-len(tiles) // columns))
    width = MARGIN + columns * (TILE_WIDTH + MARGIN)
    height = TITLE_HEIGHT + rows * (TILE_HEIGHT + MARGIN)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    _write(pen, (MARGIN, 13), cut(title, font(16), width - 2 * MARGIN), 16, INK)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left = MARGIN + column * (TILE_WIDTH + MARGIN)
        top = TITLE_HEIGHT + row * (TILE_HEIGHT + MARGIN)
        _draw_tile(sheet, pen, tile, left, top)
    return sheet


def _draw_tile(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, left: int, top: int
) -> None:
    pen.rectangle((left, top, left + TILE_WIDTH - 1, top + PICTURE_HEIGHT - 1), fill=FRAME)
    picture = _thumbnail(tile.picture)
    if picture is None:
        _write(pen, (left + 12, top + 12), "can't be decoded", 13, ALARM)
    else:
        across, down = TILE_WIDTH - picture.width, PICTURE_HEIGHT - picture.height
        sheet.paste(picture, (left + across // 2, top + down // 2))
    below = top + PICTURE_HEIGHT + 8
    lines = wrap(tile.caption or "(no caption)", font(13), TILE_WIDTH, CAPTION_LINES)
    for line in lines:
        _write(pen, (left, below), line, 13, INK if tile.caption else PALE_INK)
        below += LINE_HEIGHT
    _write(pen, (left, below), cut(tile.label, font(11), TILE_WIDTH), 11, PALE_INK)


def _thumbnail(data: bytes) -> Image.Image | None:
    """The picture, whole and upright, as large as its frame allows; None where it's broken."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a broken picture is shown as such
            with Image.open(io.BytesIO(data)) as opened:
                if opened.width * opened.height > MOST_PIXELS:
                    return None
                opened.draft(None, (2 * TILE_WIDTH, 2 * TILE_WIDTH))
                pixels_CHW = picture_pixels(opened)
    except Exception:  # Pillow's readers raise nearly anything on broken bytes
        return None
    picture = Image.fromarray(pixels_CHW.permute(1, 2, 0).contiguous().numpy())
    scale = min(TILE_WIDTH / picture.width, PICTURE_HEIGHT / picture.height, MOST_ENLARGED)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, colour: str
) -> None:
    pen.text(place, text, font=font(size), fill=colour)
