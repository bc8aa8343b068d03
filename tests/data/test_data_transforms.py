"""Crop geometry, and a sample's row: what it holds, and what its randomness hangs on."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlpretrain.data.keyed import generator
from vlpretrain.data.sample import SampleError
from vlpretrain.data.transforms import SampleSettings, centre_box, prepare_row, random_box
from vlpretrain.errors import UserError
from vlpretrain.types import Sample

SETTINGS = SampleSettings(image_size=32, block=8)
CAPTIONS = tuple(f"caption {number}" for number in range(5))


def png(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def sample(key="k", shard="x/s.tar", image=None, captions=CAPTIONS, **metadata):
    return Sample(key, shard, png() if image is None else image, captions, metadata)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 9))
def test_a_random_crop_lies_in_the_picture(height, width, key):
    box = random_box(height, width, (0.2, 1.0), generator(0, 0, str(key), "crop"))
    assert 0 <= box.top < box.top + box.height <= height
    assert 0 <= box.left < box.left + box.width <= width


def test_a_random_crop_takes_the_asked_area_and_aspect_anywhere():
    boxes = [
        random_box(600, 800, (0.3, 0.6), generator(0, 0, str(key), "crop")) for key in range(300)
    ]
    areas = np.array([box.height * box.width for box in boxes]) / (600 * 800)
    aspects = np.array([box.width / box.height for box in boxes])
    assert areas.min() >= 0.298
    assert areas.max() <= 0.602
    assert aspects.min() >= 0.74
    assert aspects.max() <= 1.34
    assert min(box.left for box in boxes) < 20
    assert max(box.left + box.width for box in boxes) > 780


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_centre_crop_is_the_middle_square(height, width):
    box = centre_box(height, width)
    assert box.height == box.width == min(height, width)
    assert abs(box.top - (height - box.top - box.height)) <= 1
    assert abs(box.left - (width - box.left - box.width)) <= 1


def test_a_row_depends_on_seed_epoch_and_key_alone():
    row = prepare_row(sample(), 0, 0, SETTINGS)
    moved = prepare_row(sample(shard="elsewhere/s.tar"), 0, 0, SETTINGS)
    assert torch.equal(row.pixels_CHW, moved.pixels_CHW)
    assert row.caption == moved.caption
    assert np.array_equal(row.block_hidden_G, moved.block_hidden_G)


@pytest.mark.parametrize(
    ("epoch", "key", "seed"), [(1, "k", 0), (0, "other", 0), (0, "k", 1)], ids=str
)
def test_another_epoch_key_or_seed_looks_otherwise(epoch, key, seed):
    row = prepare_row(sample(), 0, 0, SETTINGS)
    other = prepare_row(sample(key=key), epoch, 0, replace(SETTINGS, seed=seed))
    assert not torch.equal(row.pixels_CHW, other.pixels_CHW)
    assert not np.array_equal(row.block_hidden_G, other.block_hidden_G)


def test_all_captions_are_read_in_turn_or_the_first_always():
    def captions(settings):
        return {prepare_row(sample(), epoch, 0, settings).caption for epoch in range(40)}

    assert captions(SETTINGS) == set(CAPTIONS)
    assert captions(replace(SETTINGS, caption="first")) == {CAPTIONS[0]}


def test_flip_mirrors_half_of_the_pictures_and_nothing_else():
    still = replace(SETTINGS, crop="centre")
    plain = prepare_row(sample(), 0, 0, still).pixels_CHW
    rows = [prepare_row(sample(), epoch, 0, replace(still, flip=True)) for epoch in range(60)]
    mirrored = sum(torch.equal(row.pixels_CHW, plain.flip(2)) for row in rows)
    assert mirrored + sum(torch.equal(row.pixels_CHW, plain) for row in rows) == 60
    assert 15 < mirrored < 45


def test_samples_with_a_picture_alone_or_a_text_alone_are_rows():
    assert prepare_row(sample(captions=()), 0, 0, SETTINGS).caption is None
    text_only = prepare_row(Sample("k", "s", None, CAPTIONS, {}), 0, 0, SETTINGS)
    assert text_only.pixels_CHW is None
    assert text_only.image_id == -1
    assert text_only.block_hidden_G.sum() == 10


def test_neither_picture_nor_text_is_no_row():
    with pytest.raises(SampleError, match="neither"):
        prepare_row(Sample("k", "s", None, (), {}), 0, 0, SETTINGS)


def test_the_same_picture_is_known_by_its_id_within_a_source_or_by_its_bytes():
    def image_id(source=0, **parts):
        return prepare_row(sample(**parts), 0, source, SETTINGS).image_id

    assert image_id(key="a") == image_id(key="b", source=1)
    assert image_id() != image_id(image=png(1))
    assert image_id(image_id=7) == image_id(image_id=7, image=png(1))
    assert image_id(image_id=7) != image_id(image_id=8)
    assert image_id(image_id=7) != image_id(image_id=7, source=1)


def test_a_block_that_does_not_divide_the_picture_says_what_does():
    with pytest.raises(UserError) as caught:
        SampleSettings(image_size=100, block=32)
    assert "data.image_size 96, or a block of 4" in caught.value.fix
