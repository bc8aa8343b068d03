"""The evaluator's pictures, small and inside the page, so that the report is one file."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

# Longest side of a picture in the page, in pixels.
MAX_SIDE = 288
MAX_RECONSTRUCTIONS = 12
MAX_PAIRS = 6


@dataclass(frozen=True)
class Reconstruction:
    """A picture, what the model saw of it, and what it made of that; each a data: address."""

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
class PairGroup:
    """Pairs that show one thing."""

    title: str
    explanation: str
    pairs: tuple[Pair, ...]


def reconstructions(evaluation: dict[str, Any], folder: Path) -> tuple[Reconstruction, ...]:
    """The triplets whose three pictures can be read."""
    found = []
    for entry in _records(evaluation.get("reconstructions")):
        sources = [
            embed(folder, entry.get(name)) for name in ("original", "masked", "reconstructed")
        ]
        if all(sources):
            found.append(Reconstruction(*sources))
    return tuple(found[:MAX_RECONSTRUCTIONS])


def pair_groups(evaluation: dict[str, Any], folder: Path) -> tuple[PairGroup, ...]:
    """The best and worst scored true pairs, and the false ones that scored highest."""
    entries = [e for e in _records(evaluation.get("pairs")) if _is_score(e.get("score"))]
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


def embed(folder: Path, name: object) -> str:
    """A picture of `folder` as a data: address; empty where it is not a readable picture there."""
    if not isinstance(name, str) or not name:
        return ""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        return ""
    try:
        with Image.open(path) as picture:
            picture.thumbnail((MAX_SIDE, MAX_SIDE))
            buffer = io.BytesIO()
            picture.convert("RGB").save(buffer, "JPEG", quality=90, subsampling=0)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        # Pillow says SyntaxError for some broken PNGs.
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _pair(entry: dict[str, Any], folder: Path) -> Pair:
    score = float(entry["score"])
    caption = str(entry.get("caption", ""))
    return Pair(embed(folder, entry.get("image")), caption, score, f"{score:.3f}")


def _records(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
