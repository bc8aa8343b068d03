"""Every kind of picture becomes upright RGB, or a reason; scaled decoding changes little."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from vlpretrain.data.decode import Box, DecodeError, decode_crop, jpeg_scale, snap
from vlpretrain.data.transforms import centre_box, random_box
from vlpretrain.pixels import picture_pixels, resize_centre_crop, turn_upright

LIMIT = 10_000_000


def smooth(height, width, seed=0):
    """Noise at several scales, as light and texture in a photo; uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (3, 8, 24, 64):
        noise = random.integers(0, 255, (cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(layer, dtype=float)
    return (total / 4).astype(np.uint8)


def encode(picture, form="JPEG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def decode(data, size=32, choose_box=centre_box, fast=True, max_pixels=LIMIT):
    return decode_crop(data, size, choose_box, max_pixels=max_pixels, fast=fast)


def difference(one_CHW, other_CHW):
    return (one_CHW.float() - other_CHW.float()).abs().mean().item()


def by_pillow(picture, size, box):
    region = picture.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    resized = region.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(("height", "width"), [(300, 400), (401, 299), (20, 500), (9, 7)])
def test_a_centre_crop_equals_pillows(form, height, width):
    data = encode(Image.fromarray(smooth(height, width)), form)
    pixels_CHW = decode(data, fast=False)
    assert pixels_CHW.shape == (3, 32, 32)
    assert pixels_CHW.dtype == torch.uint8
    reference = by_pillow(Image.open(io.BytesIO(data)), 32, centre_box(height, width))
    assert difference(pixels_CHW, reference) < 1.5


@pytest.mark.parametrize(
    ("height", "width", "orientation"),
    [(768, 1024, 1), (768, 1024, 6), (767, 1021, 1), (600, 450, 1), (600, 450, 8), (450, 800, 3)],
)
@pytest.mark.parametrize("key", range(3))
def test_scaled_decoding_stays_within_a_grey_level_of_full_decoding(
    height, width, orientation, key
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(smooth(height, width, key)), quality=90, exif=exif)

    def choose_box(height, width):
        box = random_box(height, width, (0.5, 1.0), np.random.default_rng(key))
        return snap(box, height, width, jpeg_scale(box, 112))

    fast, exact = (decode(data, 112, choose_box, fast) for fast in (True, False))
    assert difference(fast, exact) < 1


def test_the_scale_is_the_smallest_that_covers_the_crop_and_a_quarter():
    sides = {100: 1, 224: 1, 559: 1, 560: 2, 1119: 2, 1120: 4, 2239: 4, 2240: 8, 9999: 8}
    assert {side: jpeg_scale(Box(0, 0, side, 10_000), 224) for side in sides} == sides


@given(st.integers(0, 500), st.integers(0, 500), st.integers(200, 500), st.integers(200, 500))
def test_snapping_moves_edges_by_half_the_scale_or_off_the_uneven_rim(top, left, height, width):
    end_height, end_width = top + height, left + width
    box = snap(Box(top, left, height, width), end_height, end_width, 8)
    assert not any(edge % 8 for edge in box)
    assert abs(box.top - top) <= 4
    assert abs(box.left - left) <= 4
    assert 0 <= end_height - (box.top + box.height) < 8
    assert 0 <= end_width - (box.left + box.width) < 8
    assert snap(Box(top, left, height, width), end_height, end_width, 1)[2:] == (height, width)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_pictures_are_turned_upright(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(smooth(90, 130)), form, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    box = Box(3, 5, 60, 50)
    got = decode(data, 48, lambda height, width: box)
    assert difference(got, by_pillow(upright, 48, box)) < 1
    whole = picture_pixels(Image.open(io.BytesIO(data)))
    assert torch.equal(whole, torch.from_numpy(np.array(upright)).permute(2, 0, 1))


def test_a_senseless_orientation_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 77
    plain = Image.fromarray(smooth(40, 60))
    assert torch.equal(decode(encode(plain, exif=exif)), decode(encode(plain)))
    broken = encode(plain, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert torch.equal(decode(broken), decode(encode(plain)))


def uniform(mode, colour, form, **options):
    return encode(Image.new(mode, (40, 40), colour), form, **options)


def palette_with_transparency():
    picture = Image.new("P", (40, 40), 1)
    picture.putpalette([10, 20, 30, 40, 50, 60])
    return encode(picture, "PNG", transparency=1)


def animated(form):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    return encode(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (uniform("L", 100, "JPEG"), (100, 100, 100)),
        (uniform("L", 100, "PNG"), (100, 100, 100)),
        (uniform("1", 1, "PNG"), (255, 255, 255)),
        (uniform("I;16", 100 * 257, "PNG"), (100, 100, 100)),
        (uniform("RGBA", (255, 0, 0, 0), "PNG"), (255, 255, 255)),
        (uniform("RGBA", (0, 0, 0, 51), "PNG"), (204, 204, 204)),
        (uniform("LA", (0, 0), "PNG"), (255, 255, 255)),
        (uniform("RGBA", (9, 8, 7, 0), "WEBP", lossless=True), (255, 255, 255)),
        (uniform("RGB", (7, 8, 9), "PNG", transparency=(7, 8, 9)), (255, 255, 255)),
        (palette_with_transparency(), (255, 255, 255)),
        (encode(Image.new("RGB", (40, 40), (1, 2, 3)).quantize(4), "PNG"), (1, 2, 3)),
        (uniform("CMYK", (0, 255, 255, 0), "JPEG"), (254, 0, 0)),
        (animated("GIF"), (255, 0, 0)),
        (animated("WEBP"), (255, 0, 0)),
        (animated("PNG"), (255, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb_over_white(data, colour):
    got = decode(data).float().mean((1, 2))
    assert torch.allclose(got, torch.tensor(colour, dtype=torch.float), atol=1.5)


JPEG = encode(Image.fromarray(smooth(64, 64)))
PNG = encode(Image.fromarray(smooth(64, 64)), "PNG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"not a picture", "can't be decoded"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (JPEG[:20], "can't be decoded"),
        (PNG[: len(PNG) // 2], "can't be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "can't be decoded"),
    ],
)
@pytest.mark.parametrize("fast", [True, False])
def test_broken_bytes_are_a_reason(data, reason, fast):
    with pytest.raises(DecodeError, match=reason):
        decode(data, fast=fast)


def test_what_pillow_refuses_to_open_is_said_in_plain_words():
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    with pytest.raises(DecodeError, match=f"over the limit of {LIMIT} pixels"):
        decode_crop(bomb.getvalue(), 32, centre_box, max_pixels=LIMIT)
    with pytest.raises(DecodeError, match=r"of no known format$"):
        decode_crop(b"<html>", 32, centre_box, max_pixels=LIMIT)


@pytest.mark.parametrize("data", [JPEG, PNG])
def test_the_pixel_limit_is_read_from_the_header(data):
    assert decode(data, max_pixels=64 * 64).shape == (3, 32, 32)
    cut = data[:700]  # the header alone: the limit speaks before the decoder does
    with pytest.raises(DecodeError, match="64x64 pixels is over the limit of 4095"):
        decode(cut, max_pixels=64 * 64 - 1)


def test_stray_bytes_in_a_jpeg_are_read_past():
    stray = JPEG[:-2] + b"\0\0\0\0\0\0" + JPEG[-2:]
    assert difference(decode(stray), decode(JPEG)) < 1


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([JPEG, PNG]), st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_gives_a_picture_or_a_reason(data, place, value):
    changed = bytearray(data)
    changed[place % len(data)] = value
    with contextlib.suppress(DecodeError):
        assert decode(bytes(changed)).shape == (3, 32, 32)


def test_turning_is_undone_by_the_opposite_turn():
    pixels_CHW = torch.from_numpy(smooth(5, 8)).permute(2, 0, 1)
    for turn, back in {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}.items():
        assert torch.equal(turn_upright(turn_upright(pixels_CHW, turn), back), pixels_CHW)


def test_the_middle_of_decoded_pixels_equals_the_centre_crop():
    data = encode(Image.fromarray(smooth(300, 401)), "PNG")
    whole_CHW = picture_pixels(Image.open(io.BytesIO(data)))
    assert torch.equal(resize_centre_crop(whole_CHW, 32), decode(data))
