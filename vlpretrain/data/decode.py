"""Encoded pictures to uint8 RGB pixels, no larger than the crop needs.

The crop is chosen on the size that the header tells, then only its region is converted and
resized. A JPEG is decoded at a half, quarter or eighth where that still covers the crop (libjpeg's
DCT scaling). Shapes: C channels (RGB), H height, W width.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import NamedTuple

import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vlpretrain.data.sample import SampleError
from vlpretrain.pixels import UPRIGHT, orientation_of, resize, rgb_pixels, turn_upright

# Sequential formats with an honest header; Pillow's rarer ones have a long history of holes.
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

# A region decoded to just the crop's size is sharper than a resized one: on photos 2 grey levels
# away on average at a margin of 1.0, 1.4 at 1.25, 0.7 at 1.6. Over random crops 1.25 stays under 1.
SCALE_MARGIN = 1.25

# JPEG segments (ITU T.81, B.2.4.6): application data APP0 .. APP15, of which APP1 has EXIF tags,
# and comments.
HEADER_SEGMENTS = frozenset((*range(0xE0, 0xF0), 0xFE))
EXIF_SEGMENT, EXIF_MARK = 0xE1, b"Exif\0\0"


class DecodeError(SampleError):
    """The bytes are no picture that can be used."""


class Box(NamedTuple):
    """A region in pixels."""

    top: int
    left: int
    height: int
    width: int


class JpegHeader(NamedTuple):
    """What a JPEG says before its pixels: the size as stored, and how to turn it upright."""

    height: int
    width: int
    orientation: int


def decode_crop(
    data: bytes,
    size: int,
    choose_box: Callable[[int, int], Box],
    *,
    max_pixels: int,
    fast: bool = True,
) -> Tensor:
    """The region that `choose_box(height, width)` names of the upright picture, as uint8 RGB
    [C, size, size], in any memory order.

    `fast` decodes a JPEG at `jpeg_scale` and moves the region's edges by at most half that scale
    (`snap`). Transparency lies over white; of an animation the first frame is taken.

    Raises:
        DecodeError: not a picture, cut short, or more than `max_pixels` by its header.
    """
    if not data:
        raise DecodeError("picture has zero bytes")
    header = _jpeg_header(data)
    if header is not None:
        _check_size(header.height, header.width, max_pixels)
        box = _stored_box(choose_box, *header)
        try:
            region_CHW = _jpeg_region(data, header, box, size, fast)
            return turn_upright(resize(region_CHW, size), header.orientation)
        except ValueError:
            # libjpeg's strict mode refuses stray bytes that Pillow reads past: Pillow judges.
            pass
    return _decode_with_pillow(data, size, choose_box, max_pixels)


def jpeg_scale(box: Box, size: int) -> int:
    """The largest of 8, 4, 2, 1 by which a region can shrink and still cover [size, size] well."""
    cover = min(box.height, box.width) / (SCALE_MARGIN * size)
    return next((scale for scale in (8, 4, 2) if cover >= scale), 1)


def snap(box: Box, height: int, width: int, scale: int) -> Box:
    """The region with its edges on multiples of `scale`: on whole pixels of the scaled picture."""

    def nearest(edge: int, end: int) -> int:
        return min(round(edge / scale), end // scale) * scale

    top, left = nearest(box.top, height), nearest(box.left, width)
    bottom, right = nearest(box.top + box.height, height), nearest(box.left + box.width, width)
    return Box(top, left, bottom - top, right - left)


def _jpeg_header(data: bytes) -> JpegHeader | None:
    """None where simplejpeg can't give RGB: not a JPEG, four inks, or a broken header."""
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colours in ("CMYK", "YCCK"):
        return None
    return JpegHeader(height, width, _jpeg_orientation(data))


def _jpeg_orientation(data: bytes) -> int:
    """The orientation, read without opening the picture."""
    block = _exif_block(data)
    if not block:
        return 1
    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of broken tags, which are no use to anybody here
            exif.load(block)
            return orientation_of(exif)
    except Exception:  # Pillow raises nearly anything on broken tags; the pixels are still good.
        return 1


def _exif_block(data: bytes) -> bytes:
    """The EXIF segment's content, or nothing; it is one of the segments before the tables."""
    place = 2
    while len(data) > place + 4 and data[place] == 0xFF and data[place + 1] in HEADER_SEGMENTS:
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] == EXIF_SEGMENT and data.startswith(EXIF_MARK, place + 4):
            return data[place + 4 : end]
        place = end
    return b""


def _stored_box(
    choose_box: Callable[[int, int], Box], height: int, width: int, orientation: int
) -> Box:
    """The region in the picture as stored, chosen in the picture as it stands upright."""
    transpose, flip_rows, flip_columns = UPRIGHT[orientation]
    if transpose:
        height, width = width, height
    box = choose_box(height, width)
    top = height - box.top - box.height if flip_rows else box.top
    left = width - box.left - box.width if flip_columns else box.left
    if transpose:
        return Box(left, top, box.width, box.height)
    return Box(top, left, box.height, box.width)


def _jpeg_region(data: bytes, header: JpegHeader, box: Box, size: int, fast: bool) -> Tensor:
    scale = jpeg_scale(box, size) if fast else 1
    box = snap(box, header.height, header.width, scale)
    pixels_HWC = simplejpeg.decode_jpeg(
        data,
        "RGB",
        min_height=-(-header.height // scale) if scale > 1 else 0,
        min_width=-(-header.width // scale) if scale > 1 else 0,
    )
    rows = slice(box.top // scale, (box.top + box.height) // scale)
    columns = slice(box.left // scale, (box.left + box.width) // scale)
    return torch.from_numpy(pixels_HWC[rows, columns]).permute(2, 0, 1)


def _decode_with_pillow(
    data: bytes, size: int, choose_box: Callable[[int, int], Box], max_pixels: int
) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a reason is raised, or the picture is good
        try:
            with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as picture:
                _check_size(picture.height, picture.width, max_pixels)
                orientation = orientation_of(picture.getexif())
                box = _stored_box(choose_box, picture.height, picture.width, orientation)
                corners = (box.left, box.top, box.left + box.width, box.top + box.height)
                region_CHW = rgb_pixels(picture.crop(corners))
        except DecodeError:
            raise
        except UnidentifiedImageError:  # its own message holds a memory address
            raise DecodeError("picture can't be decoded: of no known format") from None
        except Image.DecompressionBombError:
            limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
            raise DecodeError(f"picture is over the limit of {limit} pixels") from None
        except Exception as error:  # Pillow's readers raise nearly anything on broken bytes
            raise DecodeError(
                f"picture can't be decoded: {error or type(error).__name__}"
            ) from error
    return turn_upright(resize(region_CHW, size), orientation)


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise DecodeError(f"picture of {width}x{height} pixels is over the limit of {max_pixels}")
    if not height or not width:
        raise DecodeError(f"picture of {width}x{height} pixels")
