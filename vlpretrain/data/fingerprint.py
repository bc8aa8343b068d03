"""What data are known again by, and how much of one data set is in another.

A sample's fingerprint: marks of its pictures, and hashes of its texts, normalised. Those of a
shard are kept beside it as SHARD.tar.fpr.

Shapes: L pictures, K bytes of a thumbnail, C captions, Q questions.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vlpretrain.data.index import ShardIndex
from vlpretrain.data.keyed import stable_hash
from vlpretrain.data.near_pictures import MarkedPictures, find_nearest, first_equal
from vlpretrain.data.picture_mark import THUMBNAIL_SIZE, PictureMark, mark_picture
from vlpretrain.data.reader import ShardReader
from vlpretrain.data.sample import SampleError, parse_sample
from vlpretrain.data.shards import Source
from vlpretrain.data.sidecar import (
    Sidecar,
    SidecarFormat,
    read_sidecar,
    save_sidecar,
    sidecar_places,
)
from vlpretrain.types import Position, Sample

FINGERPRINTS = SidecarFormat(
    suffix=".fpr",
    folder="fingerprints",
    magic=b"vlpfpr\r\n",
    version=1,
    arrays={
        "bits_L": "<u8",
        "thumbnail_LK": "<u1",
        "pixels_L": "<i8",
        "picture_sample_L": "<i8",
        "caption_C": "<i8",
        "caption_sample_C": "<i8",
        "question_Q": "<i8",
        "question_sample_Q": "<i8",
    },
)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Of one sample; a picture that can't be decoded has no mark."""

    pictures: tuple[PictureMark, ...]
    captions: tuple[int, ...]
    questions: tuple[int, ...]


class Names(Protocol):
    """Of samples, by their place; a list is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> str: ...


@dataclass(frozen=True)
class FingerprintSet:
    """Of some samples, whose names are "shard/key"; each *_sample_* says whose a row is."""

    samples: Names
    pictures: MarkedPictures
    picture_sample_L: np.ndarray  # int64
    caption_C: np.ndarray  # int64
    caption_sample_C: np.ndarray
    question_Q: np.ndarray
    question_sample_Q: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, slots=True)
class Match:
    """A sample of B whose picture or text is that of a sample of A; `distance` in bits."""

    a: str
    b: str
    distance: int = 0


@dataclass(frozen=True)
class Overlap:
    """What of the samples of B is in A: one match for each picture, caption and question of B.

    A question counts only where the picture is in A too, and is asked the same there: alike
    questions about other pictures are no harm.
    """

    num_samples: int
    num_pictures: int
    num_captions: int
    num_questions: int
    unsure_pictures: int  # of B: flat, or nearly; found by equal pixels only
    pictures: tuple[Match, ...]
    captions: tuple[Match, ...]
    questions: tuple[Match, ...]

    def record(self, sources: Sequence[str]) -> dict[str, Any]:
        """As evaluations write it; `pictures` and `captions` are samples of B that have one in A.

        Args:
            sources: what A was read from.
        """
        pictures = len({match.b for match in self.pictures})
        captions = len({match.b for match in self.captions})
        note = "nothing of this set was found in the training data"
        if pictures:
            note = "pictures of this set are in the training data: its figures may be too good"
        elif captions:
            note = "captions of this set are in the training data too, with other pictures"
        return {
            "checked": True,
            "sources": list(sources),
            "pictures": pictures,
            "captions": captions,
            "of": self.num_samples,
            "note": note,
        }


def fingerprint(sample: Sample) -> Fingerprint:
    """Marks of all the sample's pictures, hashes of its captions and questions, each once."""
    pictures = []
    for image in sample.images or ((sample.image,) if sample.image is not None else ()):
        try:
            pictures.append(mark_picture(image))
        except SampleError:
            continue
    listed = sample.metadata.get("questions")
    asked = [item.get("question") for item in listed or () if isinstance(item, dict)]
    return Fingerprint(
        pictures=tuple(pictures),
        captions=_hashes(sample.captions),
        questions=_hashes(text for text in asked if isinstance(text, str)),
    )


def normalise_text(text: str) -> str:
    """Letters and digits alone, in small letters, single spaces between; compatible forms as one.

    A text without any stays as it is.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(sign if sign.isalnum() else " " for sign in folded).split()
    return " ".join(words) if words else text.strip()


def load_fingerprints(source: Source, cache_dir: str = "") -> FingerprintSet:
    """Of all samples of a source; those of a shard are read where kept, else made and kept.

    Making them decodes every picture: about 200 photos of COCO's size a second and core.
    """
    shards = range(len(source.shards))
    return join_fingerprints([fingerprint_shard(source, shard, cache_dir) for shard in shards])


def fingerprint_shard(source: Source, shard: int, cache_dir: str = "") -> FingerprintSet:
    """Of one shard of a source; kept as the shard's index is, and as long as the index fits."""
    index = source.shards[shard]
    names = _ShardNames(index)
    for place in sidecar_places(index.path, FINGERPRINTS, cache_dir):
        kept = read_sidecar(place, FINGERPRINTS)
        if kept is not None and kept.note["of"] == _identity(index):
            return _unpack(kept, names)
    made = pack_fingerprints(_read_fingerprints(source, shard), names)
    if index.file_size >= 0:  # else it can't be told whether the shard has changed
        save_sidecar(index.path, FINGERPRINTS, _as_sidecar(made, index), cache_dir)
    return made


def pack_fingerprints(found: Iterable[Fingerprint], samples: Names) -> FingerprintSet:
    """A set of fingerprints, in the order of their samples' names."""
    pictures: list[tuple[int, PictureMark]] = []
    texts: dict[str, list[tuple[int, int]]] = {"captions": [], "questions": []}
    for number, item in enumerate(found):
        pictures += [(number, mark) for mark in item.pictures]
        texts["captions"] += [(number, text) for text in item.captions]
        texts["questions"] += [(number, text) for text in item.questions]
    caption_sample_C, caption_C = _columns(texts["captions"])
    question_sample_Q, question_Q = _columns(texts["questions"])
    thumbnails = [mark.thumbnail_K for _, mark in pictures]
    return FingerprintSet(
        samples=samples,
        pictures=MarkedPictures(
            bits_L=np.array([mark.bits for _, mark in pictures], np.uint64),
            thumbnail_LK=np.array(thumbnails, np.uint8).reshape(-1, THUMBNAIL_SIZE),
            pixels_L=np.array([mark.pixels for _, mark in pictures], np.int64),
        ),
        picture_sample_L=np.array([number for number, _ in pictures], np.int64),
        caption_C=caption_C,
        caption_sample_C=caption_sample_C,
        question_Q=question_Q,
        question_sample_Q=question_sample_Q,
    )


def join_fingerprints(parts: Sequence[FingerprintSet]) -> FingerprintSet:
    """One set of several, such as the shards of a source."""
    starts = np.cumsum([0, *(len(part) for part in parts)])

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    def shifted(name: str) -> np.ndarray:
        return np.concatenate(
            [getattr(part, name) + start for part, start in zip(parts, starts, strict=False)]
        )

    marked = [part.pictures for part in parts]
    return FingerprintSet(
        samples=_JoinedNames([part.samples for part in parts], starts),
        pictures=MarkedPictures(
            bits_L=np.concatenate([part.bits_L for part in marked]),
            thumbnail_LK=np.concatenate([part.thumbnail_LK for part in marked]),
            pixels_L=np.concatenate([part.pixels_L for part in marked]),
        ),
        picture_sample_L=shifted("picture_sample_L"),
        caption_C=joined("caption_C"),
        caption_sample_C=shifted("caption_sample_C"),
        question_Q=joined("question_Q"),
        question_sample_Q=shifted("question_sample_Q"),
    )


def find_overlap(a: FingerprintSet, b: FingerprintSet) -> Overlap:
    """What of B is in A. Exact for the pictures as `find_nearest` defines the same, and for texts
    as `normalise_text` does."""
    nearest = find_nearest(a.pictures, b.pictures)
    found_L = np.flatnonzero(nearest.row_B >= 0)
    sample_a = a.picture_sample_L[nearest.row_B[found_L]]
    sample_b = b.picture_sample_L[found_L]
    distances = nearest.distance_B[found_L].tolist()
    equal_C = first_equal(a.caption_C, b.caption_C)
    found_C = np.flatnonzero(equal_C >= 0)
    captions_a, captions_b = a.caption_sample_C[equal_C[found_C]], b.caption_sample_C[found_C]
    return Overlap(
        num_samples=len(b),
        num_pictures=len(b.pictures),
        num_captions=len(b.caption_C),
        num_questions=len(b.question_Q),
        unsure_pictures=int(np.count_nonzero(b.pictures.pixels_L)),
        pictures=_matches(a, b, sample_a, sample_b, distances),
        captions=_matches(a, b, captions_a, captions_b, [0] * len(captions_a)),
        questions=_same_questions(a, b, sample_a, sample_b),
    )


def _same_questions(
    a: FingerprintSet, b: FingerprintSet, sample_a: np.ndarray, sample_b: np.ndarray
) -> tuple[Match, ...]:
    """Questions of B that A asks of the same picture."""
    asked_a = set(zip(a.question_sample_Q.tolist(), a.question_Q.tolist(), strict=True))
    partner = dict(zip(sample_b.tolist(), sample_a.tolist(), strict=True))
    pairs = [
        (partner[sample], sample)
        for sample, question in zip(
            b.question_sample_Q.tolist(), b.question_Q.tolist(), strict=True
        )
        if sample in partner and (partner[sample], question) in asked_a
    ]
    return tuple(Match(a.samples[one], b.samples[other]) for one, other in pairs)


def _matches(
    a: FingerprintSet,
    b: FingerprintSet,
    sample_a: np.ndarray,
    sample_b: np.ndarray,
    distances: Sequence[int],
) -> tuple[Match, ...]:
    pairs = zip(sample_a.tolist(), sample_b.tolist(), distances, strict=True)
    return tuple(Match(a.samples[one], b.samples[other], apart) for one, other, apart in pairs)


def _hashes(texts: Iterable[str]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(stable_hash(normalise_text(text)) for text in texts))


def _columns(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(rows, np.int64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()


def _read_fingerprints(source: Source, shard: int) -> Iterable[Fingerprint]:
    reader = ShardReader([source])
    for row in range(len(source.shards[shard])):
        raw = reader.read(Position(epoch=0, position=row, source=0, shard=shard, row=row))
        try:
            yield fingerprint(parse_sample(raw))
        except SampleError:
            yield Fingerprint((), (), ())


def _identity(index: ShardIndex) -> list[int]:
    """What of a shard changes when it does."""
    return [index.file_size, index.mtime_ns, len(index)]


def _as_sidecar(found: FingerprintSet, index: ShardIndex) -> Sidecar:
    arrays = {
        name: getattr(found.pictures if hasattr(found.pictures, name) else found, name)
        for name in FINGERPRINTS.arrays
    }
    arrays["thumbnail_LK"] = found.pictures.thumbnail_LK.ravel()
    return Sidecar({"of": _identity(index)}, arrays)


def _unpack(kept: Sidecar, samples: Names) -> FingerprintSet:
    arrays = dict(kept.arrays)
    marked = MarkedPictures(
        bits_L=arrays.pop("bits_L"),
        thumbnail_LK=arrays.pop("thumbnail_LK").reshape(-1, THUMBNAIL_SIZE),
        pixels_L=arrays.pop("pixels_L"),
    )
    return FingerprintSet(samples=samples, pictures=marked, **arrays)


class _ShardNames:
    """ "shard/key" of a shard's samples, made when asked for."""

    def __init__(self, shard: ShardIndex) -> None:
        self.shard = shard

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, row: int, /) -> str:
        return f"{self.shard.path}/{self.shard.key(row)}"


class _JoinedNames:
    def __init__(self, parts: Sequence[Names], starts: np.ndarray) -> None:
        self.parts, self.starts = parts, starts

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, row: int, /) -> str:
        part = int(np.searchsorted(self.starts, row, "right")) - 1
        return self.parts[part][row - int(self.starts[part])]
