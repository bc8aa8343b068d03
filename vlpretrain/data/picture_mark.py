"""What a picture is known again by, after scaling and re-encoding: 64 bits and a thumbnail.

Shapes: C channels (RGB), H height, W width, F frequencies, K = THUMBNAIL * THUMBNAIL * 3.
"""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from torch import Tensor

from vlpretrain.config.schema import DataConfig
from vlpretrain.data.decode import PICTURE_FORMATS, Box, DecodeError, decode_crop
from vlpretrain.data.keyed import stable_hash
from vlpretrain.pixels import picture_pixels

SIDE = 32  # pixels; the whole picture is squeezed to this square before it is marked
NUM_BITS = 64
THUMBNAIL = 8  # pixels
THUMBNAIL_SIZE = THUMBNAIL * THUMBNAIL * 3
# A bit is sure when its coefficient is this far from the median: a grey level of noise in each
# pixel of the square moves a coefficient by about one (the transform is orthonormal).
SURE_DISTANCE = 2.0
FEWEST_SURE = 32  # of the NUM_BITS; a flat picture has none, and a hash of noise says nothing


@dataclass(frozen=True, slots=True)
class PictureMark:
    """Marks of one picture, as it stands upright.

    `pixels` is 0, or, where the hash is too unsure to find the picture again (flat or nearly flat),
    a hash of all its pixels: such pictures are the same when these are equal, and only then.
    """

    bits: int  # NUM_BITS of them
    thumbnail_K: np.ndarray  # uint8, mean colours
    pixels: int = 0


def mark_picture(data: bytes) -> PictureMark:
    """Hash and thumbnail of an encoded picture.

    The hash is the sign of the lowest frequencies of its discrete cosine transform against their
    median (as "pHash"; Zauner 2010), the mean left out.

    Raises:
        DecodeError: not a picture that can be used.
    """
    limit = DataConfig().max_pixels
    # Not at a JPEG's reduced scale: its edges are cut to multiples of 8, which moves the marks.
    square_CHW = decode_crop(data, SIDE, _whole, max_pixels=limit, fast=False)
    coefficient_F = _low_frequencies(square_CHW)
    above_F = coefficient_F - np.median(coefficient_F)
    bits = int.from_bytes(np.packbits(above_F > 0).tobytes(), "big")
    is_sure = np.count_nonzero(np.abs(above_F) > SURE_DISTANCE) >= FEWEST_SURE
    return PictureMark(bits, _thumbnail(square_CHW), 0 if is_sure else _hash_pixels(data))


def _whole(height: int, width: int) -> Box:
    return Box(0, 0, height, width)


def _low_frequencies(square_CHW: Tensor) -> np.ndarray:
    """The NUM_BITS lowest frequencies of the brightness, diagonal by diagonal, without the mean."""
    red_HW, green_HW, blue_HW = square_CHW.numpy().astype(np.float64)
    grey_HW = 0.299 * red_HW + 0.587 * green_HW + 0.114 * blue_HW  # ITU-R BT.601
    basis_FH = _cosine_basis()
    rows_F, columns_F = _diagonals()
    return (basis_FH @ grey_HW @ basis_FH.T)[rows_F, columns_F]


@lru_cache(maxsize=1)
def _cosine_basis() -> np.ndarray:
    """The orthonormal DCT-II of SIDE values, as a matrix."""
    frequency_F1 = np.arange(SIDE)[:, None]
    basis_FH = np.cos(math.pi * frequency_F1 * (2 * np.arange(SIDE) + 1) / (2 * SIDE))
    basis_FH[0] /= math.sqrt(2)
    return basis_FH * math.sqrt(2 / SIDE)


@lru_cache(maxsize=1)
def _diagonals() -> tuple[np.ndarray, np.ndarray]:
    places = sorted(
        ((row, column) for row in range(SIDE) for column in range(SIDE)),
        key=lambda place: (sum(place), place),
    )
    rows, columns = zip(*places[1 : NUM_BITS + 1], strict=True)
    return np.array(rows), np.array(columns)


def _thumbnail(square_CHW: Tensor) -> np.ndarray:
    """Mean colours of THUMBNAIL x THUMBNAIL fields, uint8 [K]."""
    field = SIDE // THUMBNAIL
    fields = square_CHW.numpy().reshape(3, THUMBNAIL, field, THUMBNAIL, field)
    return fields.mean((2, 4)).round().astype(np.uint8).ravel()


def _hash_pixels(data: bytes) -> int:
    """A hash of size and pixels, never 0; equal for the same pixels in another lossless format."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of broken tags; the pixels are good
            with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as picture:
                pixels_CHW = picture_pixels(picture).numpy()
    except Exception as error:  # Pillow's readers raise nearly anything on broken bytes
        raise DecodeError(f"picture can't be decoded: {error or type(error).__name__}") from error
    return stable_hash(str(pixels_CHW.shape).encode() + pixels_CHW.tobytes()) or 1
