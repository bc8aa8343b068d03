"""How far each number of a run can be trusted: how many, how sure, over what, and seen before?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlpretrain.report import classification, figures, retrieval, vqa
from vlpretrain.report.headline import Headline
from vlpretrain.report.records import RunRecord
from vlpretrain.report.values import count, mapping


@dataclass(frozen=True)
class Verdict:
    """Whether a number is more than what it is compared with."""

    kind: Literal["above", "unclear", "below", "unknown"]
    text: str


@dataclass(frozen=True)
class TrustRow:
    """A headline, with its run's seeds, and what follows from it."""

    headline: Headline
    verdict: Verdict
    seeds: str


def trust_rows(run: RunRecord) -> tuple[TrustRow, ...]:
    return tuple(TrustRow(one, verdict(one), seeds(run)) for one in run_headlines(run))


def run_headlines(run: RunRecord) -> tuple[Headline, ...]:
    """From the evaluation's files; from the logged figures where these stand for no file."""
    found = run.evaluations
    answers = vqa.read_headline(found.get("vqa", {}))
    headlines = [
        *([answers] if answers else []),
        *retrieval.read_headlines(found.get("retrieval", {})),
        *classification.read_headlines(found.get("classification", {})),
    ]
    if run.task == "pretrain" or not headlines:
        headlines += figures.headlines(run, figures.chance_levels(run))
    return tuple(headlines)


def verdict(headline: Headline) -> Verdict:
    """By the interval against the strongest baseline's, where that has one."""
    if not headline.baselines:
        return Verdict("unknown", "nothing to compare with")
    strongest = max(headline.baselines, key=lambda baseline: baseline.upper)
    if headline.interval is None:
        return Verdict("unknown", "not known without an interval")
    low, high = headline.interval
    if low > strongest.upper:
        return Verdict("above", f"clear of {strongest.label}")
    if high < strongest.lower:
        return Verdict("below", f"below {strongest.label}")
    return Verdict("unclear", f"not clear of {strongest.label}")


def seeds(run: RunRecord) -> str:
    seed = count(mapping(run.config.get("train")).get("seed"))
    return "seed not recorded" if seed is None else f"one seed ({seed})"
