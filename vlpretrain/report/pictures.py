"""The evaluator's pictures, small and inside the page, so that the report is one file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vlpretrain.report.values import number, records, text

# Longest side of a picture in the page, in pixels; of one among many in a row.
MAX_SIDE, MAX_SMALL_SIDE = 288, 144
MAX_RECONSTRUCTIONS = 12
MAX_PAIRS = 6
MAX_WORDS = 12
# Never those that Pillow hands to another program, as EPS.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


@dataclass(frozen=True)
class Reconstruction:
    """A picture, what the model saw of it, and what it made of that.

    Each a data: address, empty where unreadable.
    """

    original: str
    masked: str
    reconstructed: str


@dataclass(frozen=True)
class Pair:
    """A picture (data: address, empty where unreadable) with a caption and its matching score."""

    picture: str
    caption: str
    score: float
    score_text: str


@dataclass(frozen=True)
class WordMap:
    """Where the model looked at a word: a picture as a data: address, empty where unreadable."""

    word: str
    picture: str


@dataclass(frozen=True)
class PairGroup:
    """Pairs that show one thing."""

    title: str
    explanation: str
    pairs: tuple[Pair, ...]


def reconstructions(evaluation: dict[str, Any], folder: Path) -> tuple[Reconstruction, ...]:
    """The triplets of which a picture can be read."""
    found: list[Reconstruction] = []
    for entry in records(evaluation.get("reconstructions"))[:MAX_RECONSTRUCTIONS]:
        sources = [
            embed(folder, entry.get(name)) for name in ("original", "masked", "reconstructed")
        ]
        if any(sources):
            found.append(Reconstruction(*sources))
    return tuple(found)


def pair_groups(evaluation: dict[str, Any], folder: Path) -> tuple[PairGroup, ...]:
    """The best and worst scored true pairs, and the false ones that scored highest."""
    entries = [e for e in records(evaluation.get("pairs")) if number(e.get("score")) is not None]
    entries.sort(key=lambda entry: -float(entry["score"]))
    true = [entry for entry in entries if entry.get("matched")]
    false = [entry for entry in entries if not entry.get("matched")]
    # A pair stands in one group: the best take the upper half at most.
    best, worst = true[: (len(true) + 1) // 2], true[(len(true) + 1) // 2 :][::-1]
    groups = (
        ("Best matched", "True pairs with the highest score", best),
        ("Worst matched", "True pairs with the lowest score", worst),
        ("Most misleading", "Captions of other pictures with the highest score", false),
    )
    return tuple(
        PairGroup(title, explanation, tuple(_pair(e, folder) for e in chosen[:MAX_PAIRS]))
        for title, explanation, chosen in groups
        if chosen
    )


def word_maps(value: object, folder: Path) -> tuple[WordMap, ...]:
    """A list of words with their pictures, in the order of the sentence."""
    return tuple(
        WordMap(text(entry.get("word")), embed(folder, entry.get("image"), MAX_SMALL_SIDE))
        for entry in records(value)[:MAX_WORDS]
    )


def embed_all(folder: Path, names: object, side: int = MAX_SIDE) -> tuple[str, ...]:
    """One picture or a list of them (two at most), as data: addresses; at least one."""
    listed = names[:2] if isinstance(names, list) and names else [names]
    return tuple(embed(folder, name, side) for name in listed)


def embed(folder: Path, name: object, side: int = MAX_SIDE) -> str:
    """A picture of `folder` as a data: address; empty where it is not a readable picture there."""
    if not isinstance(name, str) or not name:
        return ""
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            return ""
        with Image.open(path, formats=FORMATS) as picture:
            picture.thumbnail((side, side))
            buffer = io.BytesIO()
            picture.convert("RGB").save(buffer, "JPEG", quality=90, subsampling=0)
    except Exception:  # Pillow raises all kinds, SyntaxError among them, for broken files
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _pair(entry: dict[str, Any], folder: Path) -> Pair:
    score = float(entry["score"])
    caption = text(entry.get("caption"))
    return Pair(embed(folder, entry.get("image")), caption, score, f"{score:.3f}")
