"""Candidates of an answer, best first, each with its score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vlpretrain.report.charts import format_number
from vlpretrain.report.values import number, percent, records, share, text

MAX_CANDIDATES = 5


@dataclass(frozen=True)
class Candidate:
    """A name and its score; `bar` is the score where all are shares, else None."""

    name: str
    score: str
    bar: float | None
    right: bool


def read_candidates(entries: object, name: str, right: Iterable[str]) -> tuple[Candidate, ...]:
    """Reads [{name: ..., "score": ...}]; those that are among `right` are marked."""
    listed = records(entries)[:MAX_CANDIDATES]
    shares = [share(entry.get("score")) for entry in listed]
    are_shares = None not in shares
    known = {alike(one) for one in right}
    return tuple(
        Candidate(
            name=text(entry.get(name)),
            score=percent(own) if are_shares and own is not None else score_text(entry),
            bar=own if are_shares else None,
            right=alike(text(entry.get(name))) in known,
        )
        for entry, own in zip(listed, shares, strict=True)
    )


def score_text(entry: dict[str, object]) -> str:
    found = number(entry.get("score"))
    return "" if found is None else format_number(found)


def alike(answer: str) -> str:
    """Answers that differ in case and blanks alone are one."""
    return " ".join(answer.casefold().split())
