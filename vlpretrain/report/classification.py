"""What evaluation/classification.json says: top-1 and top-5, by class, and examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlpretrain.report.bars import BarPicture, Given, draw_bars
from vlpretrain.report.candidates import Candidate, alike, read_candidates
from vlpretrain.report.headline import Baseline, Headline, Overlap, read_overlap
from vlpretrain.report.pictures import embed
from vlpretrain.report.values import (
    count,
    interval,
    mapping,
    percent,
    records,
    share,
    text,
)

MAX_EXAMPLES, MAX_CLASSES = 8, 40
MODE_NAMES = {
    "finetune": "fine-tuned",
    "linear_probe": "linear probe",
    "knn": "nearest neighbours",
    "zero_shot": "zero-shot",
}


@dataclass(frozen=True)
class ClassRow:
    """A class and its accuracy."""

    name: str
    num: str
    accuracy: float
    accuracy_text: str


@dataclass(frozen=True)
class ClassTable:
    """Classes, the worst first."""

    title: str
    rows: tuple[ClassRow, ...]


@dataclass(frozen=True)
class ClassExample:
    """A picture, its class and what it was taken for."""

    picture: str
    label: str
    prediction: str
    top: tuple[Candidate, ...]


@dataclass(frozen=True)
class ClassExamples:
    """Pictures that show one thing."""

    title: str
    is_right: bool
    shown: tuple[ClassExample, ...]


@dataclass(frozen=True)
class ClassificationView:
    """What the page shows of an evaluation of classification."""

    mode: str
    size: str
    headlines: tuple[Headline, ...]
    bars: BarPicture | None
    classes: tuple[ClassTable, ...]
    examples: tuple[ClassExamples, ...]
    overlap: Overlap


def read_classification(found: dict[str, Any], folder: Path) -> ClassificationView | None:
    """None where there is nothing to show."""
    if not found:
        return None
    headlines = read_headlines(found)
    return ClassificationView(
        mode=_mode(found),
        size=_size(found),
        headlines=headlines,
        bars=_bars(headlines),
        classes=tuple(_class_tables(found)),
        examples=tuple(_examples(records(found.get("examples")), folder)),
        overlap=read_overlap(found.get("overlap")),
    )


def read_headlines(found: dict[str, Any]) -> tuple[Headline, ...]:
    """Top-1, with its interval, and top-5."""
    num = count(found.get("num_images"))
    chance = mapping(found.get("chance"))
    headlines = []
    for name, title in (("top1", "top-1"), ("top5", "top-5")):
        value, level = share(found.get(name)), share(chance.get(name))
        if value is None:
            continue
        headline = Headline(
            title=f"Classification {title}, {_mode(found)}" if _mode(found) else title,
            value=value,
            num=f"{num:,} images" if num is not None else "",
            interval=interval(found.get("interval")) if name == "top1" else None,
            baselines=(Baseline("chance", level),) if level is not None else (),
            overlap=read_overlap(found.get("overlap")),
        )
        headlines.append(headline)
    return tuple(headlines)


def _mode(found: dict[str, Any]) -> str:
    written = text(found.get("mode"))
    return MODE_NAMES.get(written, written)


def _size(found: dict[str, Any]) -> str:
    """ "5,000 images of 10 classes"."""
    images, classes = count(found.get("num_images")), count(found.get("num_classes"))
    parts = [f"{images:,} images"] if images is not None else []
    parts += [f"{classes:,} classes"] if classes is not None else []
    return " of ".join(parts)


def _bars(headlines: tuple[Headline, ...]) -> BarPicture | None:
    given = []
    for headline in headlines:
        level = headline.baselines[0].value if headline.baselines else None
        label = "top-5" if "top-5" in headline.title else "top-1"
        given.append(Given(label, headline.value, headline.interval, level))
    return draw_bars("Accuracy", given)


def _class_tables(found: dict[str, Any]) -> Iterator[ClassTable]:
    """All classes, or the two ends of many."""
    entries = records(found.get("per_class"))
    scored = [
        (entry, value) for entry in entries if (value := share(entry.get("accuracy"))) is not None
    ]
    scored.sort(key=lambda row: row[1])
    rows = tuple(_class_row(entry, value) for entry, value in scored)
    half = MAX_CLASSES // 2
    if len(rows) > MAX_CLASSES:
        yield ClassTable(f"The {half} lowest of {len(rows):,} classes", rows[:half])
        yield ClassTable(f"The {half} highest", rows[-half:][::-1])
    elif rows:
        yield ClassTable("By class, the lowest first", rows)


def _class_row(entry: dict[str, Any], accuracy: float) -> ClassRow:
    num = count(entry.get("n"))
    return ClassRow(
        name=text(entry.get("name")) or "–",
        num=f"{num:,}" if num is not None else "–",
        accuracy=accuracy,
        accuracy_text=percent(accuracy),
    )


def _examples(entries: list[dict[str, Any]], folder: Path) -> Iterator[ClassExamples]:
    right = [entry for entry in entries if _is_right(entry)]
    wrong = [entry for entry in entries if not _is_right(entry)]
    for title, is_right, chosen in (("Right", True, right), ("Wrong", False, wrong)):
        if chosen:
            shown = tuple(_example(entry, folder) for entry in chosen[:MAX_EXAMPLES])
            yield ClassExamples(title, is_right, shown)


def _is_right(entry: dict[str, Any]) -> bool:
    top = records(entry.get("top"))[:1]
    return bool(top) and alike(text(top[0].get("name"))) == alike(text(entry.get("label")))


def _example(entry: dict[str, Any], folder: Path) -> ClassExample:
    label = text(entry.get("label"))
    top = read_candidates(entry.get("top"), "name", [label])
    return ClassExample(
        picture=embed(folder, entry.get("image")),
        label=label or "–",
        prediction=top[0].name if top else "–",
        top=top,
    )
