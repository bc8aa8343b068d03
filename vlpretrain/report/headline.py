"""A number that a run is judged by, with what it takes to judge it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vlpretrain.report.values import (
    Interval,
    count,
    mapping,
    percent,
    percent_interval,
    text,
    texts,
)

MAX_SOURCES = 5


@dataclass(frozen=True)
class Overlap:
    """Whether what was evaluated on was also trained on."""

    kind: Literal["found", "captions", "none", "unchecked"]  # captions: with other pictures
    text: str


UNCHECKED = Overlap("unchecked", "overlap with the training data was not checked")


@dataclass(frozen=True)
class Baseline:
    """What a number is compared with: chance, or a model that doesn't look."""

    label: str
    value: float
    interval: Interval | None = None

    @property
    def text(self) -> str:
        return f"{self.label} {percent(self.value)}"

    @property
    def lower(self) -> float:
        return self.interval[0] if self.interval else self.value

    @property
    def upper(self) -> float:
        return self.interval[1] if self.interval else self.value


@dataclass(frozen=True)
class Headline:
    """A share of 0..1; an empty `interval` or `num` was not measured."""

    title: str
    value: float
    num: str  # "1,000 questions"
    interval: Interval | None
    baselines: tuple[Baseline, ...]
    overlap: Overlap

    @property
    def value_text(self) -> str:
        return percent(self.value)

    @property
    def interval_text(self) -> str:
        return percent_interval(self.interval)


def read_overlap(value: object) -> Overlap:
    """An evaluation's own word on it; no word is no check."""
    found = mapping(value)
    note = text(found.get("note"))
    if found.get("checked") is not True:
        return Overlap("unchecked", _sentence(UNCHECKED.text, note)) if note else UNCHECKED
    sources = _sources(found)
    pictures, captions = count(found.get("pictures")), count(found.get("captions"))
    if pictures is None and captions is None:
        return Overlap("unchecked", _sentence("the overlap check left no counts", note))
    if not pictures and not captions:
        return Overlap("none", _sentence(f"no overlap found with {sources}", note))
    kind: Literal["found", "captions"] = "found" if pictures else "captions"
    return Overlap(kind, _sentence(_shared(found) + f" also in {sources}", note))


def _shared(found: dict[str, Any]) -> str:
    """ "12 pictures and 3 captions of 1,000"."""
    parts = []
    for name in ("pictures", "captions"):
        num = count(found.get(name))
        if num:
            parts.append(f"{num:,} {name[:-1] if num == 1 else name}")
    total = count(found.get("of"))
    return " and ".join(parts) + (f" of {total:,}" if total else "")


def _sources(found: dict[str, Any]) -> str:
    names = texts(found.get("sources"))
    more = f" and {len(names) - MAX_SOURCES} more" if len(names) > MAX_SOURCES else ""
    listed = ", ".join(names[:MAX_SOURCES]) + more
    return f"the training data ({listed})" if names else "the training data"


def _sentence(said: str, note: str) -> str:
    return f"{said}: {note}" if note else said
