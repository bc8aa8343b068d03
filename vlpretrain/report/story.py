"""What the page of several runs shows beside the runs' own sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlpretrain.report.chain import short_names
from vlpretrain.report.headline import Headline, Overlap
from vlpretrain.report.records import RunRecord
from vlpretrain.report.run_view import RunView, run_view
from vlpretrain.report.tables import plain_text
from vlpretrain.report.trust import TrustRow
from vlpretrain.report.values import text

MAX_TILES, MAX_VERSIONS = 4, 40
# Of a run's environment, what decides whether a number comes out again.
VERSION_KEYS = ("commit", "python", "versions", "cuda", "devices", "ranks")


@dataclass(frozen=True)
class Chapter:
    """A run within the story; its places in the page begin with `prefix`."""

    prefix: str
    run: RunView
    trust: tuple[TrustRow, ...]  # in one table for all runs, so not in `run`
    tiles: tuple[Headline, ...]
    overlaps: tuple[Overlap, ...]  # of the tiles, each once


@dataclass(frozen=True)
class Versions:
    """A thing that runs were made with, and what it was for each of them."""

    name: str
    values: tuple[str, ...]
    differ: bool


def story_content(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """What the template shows, by name; the runs in the order of the story."""
    names = short_names([run.folder for run in runs])
    chapters = [
        _chapter(n, run, name) for n, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    return {
        "name": " → ".join(names),
        "chapters": chapters,
        "trust": [(chapter.run.name, chapter.trust) for chapter in chapters if chapter.trust],
        "without_headline": [chapter.run.name for chapter in chapters if not chapter.trust],
        "versions": versions(runs),
    }


def _chapter(index: int, run: RunRecord, name: str) -> Chapter:
    view = run_view(run, name)
    headlines = [row.headline for row in view.trust][:MAX_TILES]
    return Chapter(
        prefix=f"run-{index + 1}",
        run=replace(view, trust=()),
        trust=view.trust,
        tiles=tuple(headlines),
        overlaps=tuple(dict.fromkeys(headline.overlap for headline in headlines)),
    )


def versions(runs: Sequence[RunRecord]) -> tuple[Versions, ...]:
    """Of every run beside one another; a thing that no run names is left out."""
    named = [_named_versions(run) for run in runs]
    things = list(dict.fromkeys(thing for own in named for thing in own))
    found = []
    for thing in things:
        values = tuple(own.get(thing, "–") for own in named)
        found.append(Versions(thing, values, differ=len(set(values)) > 1))
    return tuple(found)


def _named_versions(run: RunRecord) -> dict[str, str]:
    named: dict[str, str] = {}
    for key in VERSION_KEYS:
        value = run.environment.get(key)
        if isinstance(value, dict):
            named |= {text(name): plain_text(item) for name, item in value.items()}
        elif value is not None:
            named[key] = plain_text(value)
    return dict(list(named.items())[:MAX_VERSIONS])
