"""What evaluation/vqa.json says: accuracy beside what needs no picture, by kind, and examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlpretrain.report.bars import BarPicture, Given, draw_bars
from vlpretrain.report.candidates import Candidate, alike, read_candidates
from vlpretrain.report.headline import Baseline, Headline, Overlap, read_overlap
from vlpretrain.report.pictures import WordMap, embed_all, word_maps
from vlpretrain.report.values import (
    count,
    interval,
    mapping,
    percent,
    percent_interval,
    records,
    share,
    text,
    texts,
)

MAX_EXAMPLES, MAX_KINDS, MAX_PEOPLE = 8, 40, 5
# An answer is shown as right from here: two of ten people gave it.
RIGHT_FROM = 0.5
BASELINE_NAMES = {"question_only": "question only", "most_frequent": "most frequent answer"}


@dataclass(frozen=True)
class Kind:
    """The questions of one type."""

    name: str
    num: str
    accuracy: float
    accuracy_text: str
    interval_text: str


@dataclass(frozen=True)
class Kinds:
    """A table of kinds, the most frequent first."""

    title: str
    rows: tuple[Kind, ...]
    num_more: int


@dataclass(frozen=True)
class Example:
    """A question with its picture or two, what was answered, and what people said."""

    pictures: tuple[str, ...]
    question: str
    people: str
    prediction: str
    accuracy_text: str
    top: tuple[Candidate, ...]
    words: tuple[WordMap, ...]


@dataclass(frozen=True)
class Examples:
    """Questions that show one thing."""

    title: str
    is_right: bool
    shown: tuple[Example, ...]


@dataclass(frozen=True)
class Fact:
    """A figure beside the accuracy."""

    title: str
    value: str
    explanation: str


@dataclass(frozen=True)
class VqaView:
    """What the page shows of an evaluation of visual question answering."""

    headline: Headline | None
    facts: tuple[Fact, ...]
    bars: BarPicture | None
    answer_types: Kinds | None
    question_types: Kinds | None
    examples: tuple[Examples, ...]
    results_file: str
    overlap: Overlap


def read_vqa(found: dict[str, Any], folder: Path) -> VqaView | None:
    """None where there is nothing to show."""
    if not found:
        return None
    headline = read_headline(found)
    return VqaView(
        headline=headline,
        facts=tuple(_facts(found, headline)),
        bars=_bars(headline),
        answer_types=_kinds(found.get("by_answer_type"), "By answer type"),
        question_types=_kinds(found.get("by_question_type"), "By question type"),
        examples=tuple(_examples(records(found.get("examples")), folder)),
        results_file=text(found.get("results_file")),
        overlap=read_overlap(found.get("overlap")),
    )


def read_headline(found: dict[str, Any]) -> Headline | None:
    accuracy = share(found.get("accuracy"))
    if accuracy is None:
        return None
    num = count(found.get("num_questions"))
    return Headline(
        title="VQA accuracy",
        value=accuracy,
        num=f"{num:,} questions" if num is not None else "",
        interval=interval(found.get("interval")),
        baselines=tuple(_baselines(mapping(found.get("baselines")))),
        overlap=read_overlap(found.get("overlap")),
    )


def _baselines(found: dict[str, Any]) -> Iterator[Baseline]:
    for name, label in BASELINE_NAMES.items():
        own = mapping(found.get(name))
        accuracy = share(own.get("accuracy"))
        if accuracy is not None:
            yield Baseline(label, accuracy, interval(own.get("interval")))


def _bars(headline: Headline | None) -> BarPicture | None:
    if headline is None:
        return None
    own = Given("this model", headline.value, headline.interval)
    others = [Given(b.label, b.value, b.interval, kind="other") for b in headline.baselines]
    return draw_bars("Accuracy beside answering blind", [own, *others])


def _facts(found: dict[str, Any], headline: Headline | None) -> Iterator[Fact]:
    if headline and headline.baselines:
        best = max(headline.baselines, key=lambda baseline: baseline.value)
        points = 100 * (headline.value - best.value)
        yield Fact(f"Over {best.label}", f"{points:+.1f}", "points of accuracy")
    vocabulary = mapping(found.get("vocabulary"))
    coverage, size = share(vocabulary.get("coverage")), count(vocabulary.get("size"))
    if coverage is not None:
        among = f"in a vocabulary of {size:,}" if size is not None else "in the vocabulary"
        yield Fact("Training answers covered", percent(coverage), among)
    consistency = mapping(found.get("consistency"))
    value, num = share(consistency.get("value")), count(consistency.get("n"))
    if value is not None:
        groups = f"of {num:,} groups" if num is not None else "of groups"
        yield Fact("Consistency", percent(value), f"{groups}: every question of it right")


def _kinds(value: object, title: str) -> Kinds | None:
    rows = [(entry, share(entry.get("accuracy"))) for entry in records(value)]
    scored = [(entry, accuracy) for entry, accuracy in rows if accuracy is not None]
    scored.sort(key=lambda row: -(count(row[0].get("n")) or 0))
    shown = tuple(_kind(entry, accuracy) for entry, accuracy in scored[:MAX_KINDS])
    return Kinds(title, shown, len(scored) - len(shown)) if shown else None


def _kind(entry: dict[str, Any], accuracy: float) -> Kind:
    num = count(entry.get("n"))
    return Kind(
        name=text(entry.get("name")) or "–",
        num=f"{num:,}" if num is not None else "–",
        accuracy=accuracy,
        accuracy_text=percent(accuracy),
        interval_text=percent_interval(interval(entry.get("interval"))) or "–",
    )


def _examples(entries: list[dict[str, Any]], folder: Path) -> Iterator[Examples]:
    right = [entry for entry in entries if _is_right(entry)]
    wrong = [entry for entry in entries if not _is_right(entry)]
    groups = (("Answered right", True, right), ("Answered wrong", False, wrong))
    for title, is_right, chosen in groups:
        if chosen:
            shown = tuple(_example(entry, folder) for entry in chosen[:MAX_EXAMPLES])
            yield Examples(title, is_right, shown)


def _is_right(entry: dict[str, Any]) -> bool:
    accuracy = share(entry.get("accuracy"))
    if accuracy is not None:
        return accuracy >= RIGHT_FROM
    people = {alike(answer) for answer in texts(entry.get("answers"))}
    return alike(text(entry.get("prediction"))) in people


def _example(entry: dict[str, Any], folder: Path) -> Example:
    answers = texts(entry.get("answers"))
    accuracy = share(entry.get("accuracy"))
    return Example(
        pictures=embed_all(folder, entry.get("image")),
        question=text(entry.get("question")),
        people=_people(answers),
        prediction=text(entry.get("prediction")) or "–",
        accuracy_text=percent(accuracy) if accuracy is not None else "",
        top=read_candidates(entry.get("top"), "answer", answers),
        words=word_maps(entry.get("words"), folder),
    )


def _people(answers: list[str]) -> str:
    """ "red ×7, crimson ×3": what people said, the most frequent first."""
    counted = Counter(answers).most_common()
    said = [f"{answer} ×{num}" if num > 1 else answer for answer, num in counted[:MAX_PEOPLE]]
    return ", ".join([*said, *(["…"] if len(counted) > MAX_PEOPLE else [])])
