"""Which pictures of one set are those of another, exactly, in far less than all comparisons.

A are the rows that are searched, B those that are looked for; L rows of either, K bytes of a
thumbnail, P candidate pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Both measured on 76 COCO photos, scaled to 64 - 320 pixels, squeezed square, and re-encoded down
# to JPEG quality 20: at most 2 bits and 15 levels; a cut of 1 % at each edge: 6 bits, 19 levels.
# Any two of those photos are 18 bits and 59 levels apart. Drawings of a shape on white often have
# the same hash though they differ; the colours of the thumbnail tell them apart.
MOST_BITS = 6
MOST_LEVELS = 16  # of 255, in the worst field of the thumbnail

BANDS, BAND_BITS = 4, 16
_CHUNK = 1 << 18  # candidate pairs looked at together: bounds the memory
_NONE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class MarkedPictures:
    """Marks of L pictures; see PictureMark."""

    bits_L: np.ndarray  # uint64
    thumbnail_LK: np.ndarray  # uint8
    pixels_L: np.ndarray  # int64, 0 where the bits are sure

    def __len__(self) -> int:
        return len(self.bits_L)


@dataclass(frozen=True)
class NearestPictures:
    """For each row of B the nearest row of A that is the same picture, the first of several."""

    row_B: np.ndarray  # int64, -1 where there is none
    distance_B: np.ndarray  # int64, in bits


def find_nearest(a: MarkedPictures, b: MarkedPictures) -> NearestPictures:
    """The same pictures: hashes at most MOST_BITS and thumbnails at most MOST_LEVELS apart.

    A picture whose hash is unsure is the same as another such one with equal pixels, and no other.
    """
    best_B = np.full(len(b), _NONE, np.int64)
    sure_a, sure_b = np.flatnonzero(a.pixels_L == 0), np.flatnonzero(b.pixels_L == 0)
    for pair_a, pair_b in _candidates(a.bits_L[sure_a], b.bits_L[sure_b]):
        row_a, row_b = sure_a[pair_a], sure_b[pair_b]
        distance_P = np.bitwise_count(a.bits_L[row_a] ^ b.bits_L[row_b]).astype(np.int64)
        near_P = distance_P <= MOST_BITS
        row_a, row_b, distance_P = row_a[near_P], row_b[near_P], distance_P[near_P]
        alike_P = _levels_apart(a.thumbnail_LK[row_a], b.thumbnail_LK[row_b]) <= MOST_LEVELS
        # Nearest first, then the first row: as one number, so that the smallest is the best.
        score_P = (distance_P[alike_P] << 40) + row_a[alike_P]
        np.minimum.at(best_B, row_b[alike_P], score_P)
    _match_pixels(a.pixels_L, b.pixels_L, best_B)
    found_B = best_B != _NONE
    row_B = np.where(found_B, best_B & ((1 << 40) - 1), -1)
    return NearestPictures(row_B, np.where(found_B, best_B >> 40, 0))


def first_equal(value_A: np.ndarray, value_B: np.ndarray) -> np.ndarray:
    """For each of B the first row of A with the same value, or -1."""
    if not len(value_A):
        return np.full(len(value_B), -1, np.int64)
    order_A = np.argsort(value_A, kind="stable")
    sorted_A = value_A[order_A]
    place_B = np.minimum(np.searchsorted(sorted_A, value_B), len(value_A) - 1)
    return np.where(sorted_A[place_B] == value_B, order_A[place_B], -1)


def _match_pixels(pixels_A: np.ndarray, pixels_B: np.ndarray, best_B: np.ndarray) -> None:
    equal_B = first_equal(pixels_A, pixels_B)
    matched_B = (pixels_B != 0) & (equal_B >= 0)
    best_B[matched_B] = equal_B[matched_B]


def _levels_apart(thumbnail_PK: np.ndarray, other_PK: np.ndarray) -> np.ndarray:
    apart_PK = np.maximum(thumbnail_PK, other_PK) - np.minimum(thumbnail_PK, other_PK)
    return apart_PK.max(1, initial=0)


def _candidates(bits_A: np.ndarray, bits_B: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair at most MOST_BITS apart, among others, some more than once.

    Of BANDS bands, one differs in at most MOST_BITS // BANDS bits (pigeonholes): so the pairs are
    among those that share a band, or would with that many of its bits turned.
    """
    for band in range(BANDS):
        shift = np.uint64(band * BAND_BITS)
        band_A, band_B = (((bits >> shift) & np.uint64(0xFFFF)) for bits in (bits_A, bits_B))
        order_A = np.argsort(band_A, kind="stable")
        sorted_A = band_A[order_A]
        for turned in _turned_bits():
            wanted_B = band_B ^ turned
            start_B = np.searchsorted(sorted_A, wanted_B, "left")
            count_B = np.searchsorted(sorted_A, wanted_B, "right") - start_B
            for place_P, row_b in _expanded(start_B, count_B):
                yield order_A[place_P], row_b


def _turned_bits() -> list[np.uint64]:
    assert MOST_BITS // BANDS == 1
    return [np.uint64(0)] + [np.uint64(1 << bit) for bit in range(BAND_BITS)]


def _expanded(start_B: np.ndarray, count_B: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The places start .. start + count - 1 of each row, with the row, about _CHUNK at a time."""
    rows = np.flatnonzero(count_B)
    total_R = np.cumsum(count_B[rows])
    first = 0
    while first < len(rows):
        done = total_R[first - 1] if first else 0
        last = max(int(np.searchsorted(total_R, done + _CHUNK, "right")), first + 1)
        part = rows[first:last]
        row_P = np.repeat(part, count_B[part])
        before_P = np.repeat(np.cumsum(count_B[part]) - count_B[part], count_B[part])
        yield np.arange(len(row_P)) - before_P + start_B[row_P], row_P
        first = last
