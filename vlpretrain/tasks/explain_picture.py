"""Pictures of where a model looked: a map laid over a picture, and a sheet with a tile a word.

Shapes: B pictures, L words, C channels, H W pixels, h w rows and columns of a map.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from vlpretrain.lettering import cut, font, wrap
from vlpretrain.pixels import resize
from vlpretrain.tasks.explain import WordMaps

# All in pixels.
TILE, MARGIN = 224, 18
TITLE_LINES, TITLE_LINE, WORD_LINE, FOOT = 2, 24, 20, 30
TITLE_SIZE, WORD_SIZE, SMALL_SIZE = 17, 14, 11
COLUMNS = 6

# Evenly spaced to the eye, and readable without colour vision.
COLOURS = matplotlib.colormaps["inferno"]
STRONGEST = 0.8  # how much the colour hides the picture where a map peaks
DIMMED = 0.55  # brightness of the picture where a map is 0
PAPER, INK, PALE_INK = "#ffffff", "#1c1f23", "#7b838c"


@dataclass(frozen=True, slots=True)
class Explained:
    """Maps and the pictures that they lie on."""

    pixels_BCHW: Tensor  # uint8 RGB, square, of any size
    maps: WordMaps


def overlay(pixels_CHW: Tensor, map_hw: Tensor, peak: float) -> Tensor:
    """The picture under a map, uint8 [C, H, W]: dimmed where the map is 0, bright at `peak`."""
    shape = pixels_CHW.shape[-2:]
    scaled_11hw = map_hw.float()[None, None] / max(peak, torch.finfo(torch.float32).tiny)
    # Bicubic interpolation overshoots.
    value_HW = F.interpolate(scaled_11hw, shape, mode="bicubic", antialias=True)[0, 0].clamp(0, 1)
    colour_HWC = torch.from_numpy(COLOURS(value_HW.numpy())[..., :3]).float()
    dimmed_CHW = pixels_CHW.cpu() / 255 * (DIMMED + (1 - DIMMED) * value_HW)
    mixed_CHW = torch.lerp(dimmed_CHW, colour_HWC.permute(2, 0, 1), STRONGEST * value_HW)
    return (mixed_CHW * 255).round().to(torch.uint8)


def draw_sheet(explained: Explained) -> Image.Image:
    """What was read and found, the picture, and a tile for all and one for each word."""
    maps = explained.maps
    plain = _side_by_side(_shown(explained.pixels_BCHW))
    tiles = [plain, *_tiles(explained)]
    columns = min(max(1, COLUMNS * TILE // plain.width), len(tiles))
    rows = -(-len(tiles) // columns)
    width = MARGIN + columns * (plain.width + MARGIN)
    titles = wrap(maps.text, font(TITLE_SIZE), width - 2 * MARGIN, TITLE_LINES)
    titles.append(cut(_finding(maps), font(TITLE_SIZE), width - 2 * MARGIN))
    top = MARGIN + TITLE_LINE * len(titles) + MARGIN // 2
    row_height = plain.height + 2 * WORD_LINE + MARGIN
    sheet = Image.new("RGB", (width, top + rows * row_height + FOOT), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(titles):
        pen.text((MARGIN, MARGIN + TITLE_LINE * number), line, INK, font(TITLE_SIZE))
    for number, (tile, labels) in enumerate(zip(tiles, _labels(maps), strict=True)):
        place = (
            MARGIN + number % columns * (plain.width + MARGIN),
            top + number // columns * row_height,
        )
        _put_tile(sheet, pen, tile, labels, place)
    foot = f"Each map to its own peak; %: a word's share of all tokens. Fusion layer {maps.layer}."
    foot = cut(foot, font(SMALL_SIZE), width - 2 * MARGIN)
    pen.text((MARGIN, sheet.height - FOOT), foot, PALE_INK, font(SMALL_SIZE))
    return sheet


def write_attention(examples: Sequence[Explained], folder: Path) -> None:
    """PNG files, and last attention.json that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    listing = {
        "examples": [
            _save_example(explained, folder, f"attention-{number}")
            for number, explained in enumerate(examples)
        ]
    }
    write_text(json.dumps(listing, indent=2, ensure_ascii=False), folder / "attention.json")


def write_words(explained: Explained, folder: Path, name: str) -> list[dict[str, str]]:
    """A PNG file for each word, its name beginning with `name`; the entry "words" of an example."""
    _, *tiles = _tiles(explained)
    words = []
    for number, (word, tile) in enumerate(zip(explained.maps.words, tiles, strict=True)):
        words.append({"word": word, "image": f"{name}-word-{number}.png"})
        tile.save(folder / words[-1]["image"])
    return words


def write_text(text: str, path: Path) -> None:
    """The whole file or none."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)


def write_png(picture: Image.Image, path: Path) -> None:
    """The whole file or none."""
    partial = path.with_name(path.name + ".partial")
    picture.save(partial, format="PNG")
    os.replace(partial, path)


def _save_example(explained: Explained, folder: Path, name: str) -> dict[str, Any]:
    """An entry of attention.json; two pictures are named in a list, their maps side by side."""
    maps = explained.maps
    images = []
    for number, pixels_CHW in enumerate(_shown(explained.pixels_BCHW)):
        images.append(f"{name}-{number}.png")
        _as_picture(pixels_CHW).save(folder / images[-1])
    whole, *_ = _tiles(explained)
    whole.save(folder / f"{name}-whole.png")
    return {
        "image": images[0] if len(images) == 1 else images,
        "text": maps.text,
        "answer": maps.answer,
        "score": maps.probability,
        "whole": f"{name}-whole.png",
        "words": write_words(explained, folder, name),
    }


def _tiles(explained: Explained) -> list[Image.Image]:
    """The whole text's maps and then each word's over all pictures, each to a scale of its own."""
    shown = _shown(explained.pixels_BCHW)
    tiles = []
    for map_Bhw in (explained.maps.whole_Bhw, *explained.maps.map_BLhw.unbind(dim=1)):
        peak = float(map_Bhw.max())
        pairs = zip(shown, map_Bhw, strict=True)
        tiles.append(_side_by_side([overlay(pixels, map_hw, peak) for pixels, map_hw in pairs]))
    return tiles


def _labels(maps: WordMaps) -> list[tuple[str, str]]:
    """What stands below the picture and below each tile."""
    shares = [f"{100 * share:.0f} %" for share in maps.share_L.tolist()]
    picture = "picture" if len(maps.map_BLhw) == 1 else "pictures"
    return [(picture, ""), ("whole text", ""), *zip(maps.words, shares, strict=True)]


def _finding(maps: WordMaps) -> str:
    """The number first, where no long answer can push it out."""
    found = "match" if maps.answer is None else " ".join(maps.answer.split())
    if maps.probability is None:
        return f"score {maps.score:.2f}: {found}"
    return f"{100 * maps.probability:.1f} % {found}"


def _put_tile(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    tile: Image.Image,
    labels: tuple[str, str],
    place: tuple[int, int],
) -> None:
    left, top = place
    sheet.paste(tile, place)
    word, share = labels
    word = cut(" ".join(word.split()), font(WORD_SIZE), tile.width)
    pen.text((left, top + tile.height + 4), word, INK, font(WORD_SIZE))
    below = top + tile.height + 4 + WORD_LINE
    pen.text((left, below), share, PALE_INK, font(SMALL_SIZE))


def _shown(pixels_BCHW: Tensor) -> list[Tensor]:
    return [resize(pixels_CHW.cpu(), TILE) for pixels_CHW in pixels_BCHW]


def _side_by_side(pictures: Sequence[Tensor]) -> Image.Image:
    return _as_picture(torch.cat(list(pictures), dim=2))


def _as_picture(pixels_CHW: Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels_CHW.permute(1, 2, 0).numpy()))
