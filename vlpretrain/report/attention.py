"""What evaluation/attention.json says: where the model looked, word by word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlpretrain.report.charts import format_number
from vlpretrain.report.pictures import WordMap, embed_all, word_maps
from vlpretrain.report.values import number, records, text

MAX_EXAMPLES = 8


@dataclass(frozen=True)
class AttentionExample:
    """A text about a picture or two, and a map for each of its words."""

    pictures: tuple[str, ...]
    text: str
    answer: str
    score: str
    words: tuple[WordMap, ...]


def read_attention(found: dict[str, Any], folder: Path) -> tuple[AttentionExample, ...]:
    return tuple(_example(entry, folder) for entry in records(found.get("examples"))[:MAX_EXAMPLES])


def _example(entry: dict[str, Any], folder: Path) -> AttentionExample:
    score = number(entry.get("score"))
    return AttentionExample(
        pictures=embed_all(folder, entry.get("image")),
        text=text(entry.get("text")),
        answer=text(entry.get("answer")),
        score="" if score is None else format_number(score),
        words=word_maps(entry.get("words"), folder),
    )
