"""Pictures of where a model looked: bounded, faithful to the map, and drawn whatever the words."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from vlpretrain.tasks.explain import WordMaps
from vlpretrain.tasks.explain_picture import (
    COLUMNS,
    DIMMED,
    MARGIN,
    TILE,
    TITLE_LINE,
    WORD_LINE,
    Explained,
    draw_sheet,
    overlay,
    write_attention,
)

TOP = MARGIN + 2 * TITLE_LINE + MARGIN // 2  # of the first row of tiles, below a text of one line


def pixels_of(count: int = 1, size: int = 32) -> Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


def maps_of(words: tuple[str, ...], pictures: int = 1, text: str = "") -> WordMaps:
    torch.manual_seed(0)
    map_BLhw = torch.rand(pictures, len(words), 4, 4)
    return WordMaps(
        text=text or " ".join(words),
        words=words,
        map_BLhw=map_BLhw,
        whole_Bhw=map_BLhw.mean(dim=1),
        share_L=torch.full((len(words),), 0.1),
        layer=1,
        score=-1.5,
        probability=0.25,
        answer=None,
    )


def test_where_a_map_is_empty_the_picture_is_only_dimmed():
    pixels_CHW = pixels_of(size=40)[0]
    laid = overlay(pixels_CHW, torch.zeros(4, 4), peak=0.0)
    torch.testing.assert_close(laid.float(), (pixels_CHW * DIMMED).round(), rtol=0, atol=1)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_an_overlay_does_not_depend_on_the_map_s_unit(scale):
    """Nor does interpolation between sharp edges leave the range of colours."""
    map_hw = torch.eye(5)
    first = overlay(pixels_of()[0], map_hw, peak=1.0)
    scaled = overlay(pixels_of()[0], map_hw * scale, peak=scale)
    torch.testing.assert_close(scaled, first, rtol=0, atol=1)
    white = overlay(torch.full((3, 60, 60), 255, dtype=torch.uint8), 1 - map_hw, peak=1.0)
    assert (white >= 255 * 0.1).any(dim=0).all()


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (3, 3)])
def test_the_brightest_place_is_where_the_map_peaks(place):
    map_hw = torch.zeros(4, 4)
    map_hw[place] = 0.3
    laid = overlay(torch.full((3, 64, 64), 100, dtype=torch.uint8), map_hw, peak=0.3)
    light_hw = laid.float().mean(0).unfold(0, 16, 16).unfold(1, 16, 16).mean(dim=(2, 3))
    assert int(light_hw.argmax()) == place[0] * 4 + place[1]


def test_the_sheet_has_a_tile_for_the_picture_the_whole_and_each_word():
    explained = Explained(pixels_of(size=TILE), maps_of(tuple("abcdef")))
    sheet = draw_sheet(explained)
    assert sheet.width == MARGIN + COLUMNS * (TILE + MARGIN)
    shown = [
        sheet.crop((left, top, left + TILE, top + TILE))
        for top in (TOP, TOP + TILE + 2 * WORD_LINE + MARGIN)
        for left in range(MARGIN, sheet.width, TILE + MARGIN)
    ]
    picture = Image.fromarray(explained.pixels_BCHW[0].permute(1, 2, 0).numpy())
    assert shown[0].tobytes() == picture.tobytes()
    maps = [explained.maps.whole_Bhw[0], *explained.maps.map_BLhw[0]]
    for tile, map_hw in zip(shown[1:], maps, strict=False):
        laid = overlay(explained.pixels_BCHW[0], map_hw, float(map_hw.max()))
        assert tile.tobytes() == Image.fromarray(laid.permute(1, 2, 0).numpy()).tobytes()
    assert all(max(tile.tobytes()) == min(tile.tobytes()) == 255 for tile in shown[8:])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_any_words_can_be_drawn(words):
    sheet = draw_sheet(Explained(pixels_of(), maps_of(tuple(words), text="\n".join(words))))
    assert sheet.width <= MARGIN + COLUMNS * (TILE + MARGIN)


@pytest.mark.parametrize(
    "word", ["x" * 5000, "漢字", "مرحبا", "👩‍👩‍👧", "$x^2$", "a\nb", "\x00", "\ud800", "<b>&"]
)
def test_a_hard_word_neither_breaks_the_sheet_nor_widens_it(word):
    plain = draw_sheet(Explained(pixels_of(), maps_of(("word", "next"))))
    sheet = draw_sheet(Explained(pixels_of(), maps_of((word, "next"), text="word next")))
    assert sheet.size == plain.size


def test_attention_json_names_the_pictures_beside_it(tmp_path: Path):
    matched = maps_of(("red", "漢"))
    answered = replace(maps_of(("what", "?"), pictures=2), answer="blue", probability=None)
    write_attention(
        [Explained(pixels_of(), matched), Explained(pixels_of(2), answered)], tmp_path / "new"
    )
    first, second = json.loads((tmp_path / "new" / "attention.json").read_text())["examples"]
    assert (first["text"], first["answer"], first["score"]) == ("red 漢", None, 0.25)
    assert (second["answer"], second["score"]) == ("blue", None)
    assert [entry["word"] for entry in first["words"]] == ["red", "漢"]
    assert isinstance(first["image"], str)
    assert len(second["image"]) == 2
    named = [first["image"], *second["image"], first["whole"], second["whole"]]
    named += [entry["image"] for example in (first, second) for entry in example["words"]]
    files = {path.name for path in (tmp_path / "new").iterdir()}
    assert files == {*named, "attention.json"}
    assert len(named) == len(set(named))
    for name in named:
        with Image.open(tmp_path / "new" / name) as picture:
            assert picture.height == TILE
            wide = name.startswith("attention-1") and name not in second["image"]
            assert picture.width == (2 * TILE if wide else TILE)


def test_two_pictures_of_a_word_share_one_scale():
    """The word that looks at the first picture alone leaves the second dimmed."""
    maps = maps_of(("left",), pictures=2)
    maps.map_BLhw[1] = 0
    sheet = draw_sheet(Explained(pixels_of(2), maps))
    assert sheet.width == MARGIN + 3 * (2 * TILE + MARGIN)
    # The second half of the word's tile, and of the pictures'.
    left = MARGIN + 2 * (2 * TILE + MARGIN) + TILE
    tile = sheet.crop((left, TOP, left + TILE, TOP + TILE))
    first = sheet.crop((MARGIN + TILE, TOP, MARGIN + 2 * TILE, TOP + TILE))
    dimmed = first.point(lambda value: round(value * DIMMED))
    differences = [abs(a - b) for a, b in zip(tile.tobytes(), dimmed.tobytes(), strict=True)]
    assert max(differences) <= 1
