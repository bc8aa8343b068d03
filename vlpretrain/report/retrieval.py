"""What evaluation/retrieval.json says: recall both ways, before and after the re-ranking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlpretrain.report.bars import BarPicture, Given, draw_bars
from vlpretrain.report.candidates import score_text
from vlpretrain.report.charts import format_number
from vlpretrain.report.curve import Curve, draw_curve
from vlpretrain.report.headline import Baseline, Headline, Overlap, read_overlap
from vlpretrain.report.pictures import MAX_SMALL_SIDE, embed
from vlpretrain.report.values import (
    count,
    interval,
    mapping,
    number,
    percent,
    percent_interval,
    records,
    share,
    text,
)

MAX_EXAMPLES, MAX_CANDIDATES = 6, 5
# Direction: title, the queries' count.
DIRECTIONS = {
    "image_to_text": ("Image to text", "num_images", "images"),
    "text_to_image": ("Text to image", "num_texts", "texts"),
}
STAGES = {"dual": "dual encoder", "reranked": "re-ranked"}
RECALLS = ("recall@1", "recall@5", "recall@10")


@dataclass(frozen=True)
class StageRow:
    """A line of the table of recalls, as text."""

    name: str
    recalls: tuple[str, ...]  # at 1, 5 and 10
    interval_text: str  # of the first
    median_rank: str
    is_chance: bool = False


@dataclass(frozen=True)
class Direction:
    """One direction: a row for each stage, then chance."""

    title: str
    rows: tuple[StageRow, ...]


@dataclass(frozen=True)
class FoundText:
    """A text that was found for a picture."""

    text: str
    score: str
    right: bool


@dataclass(frozen=True)
class FoundPicture:
    """A picture that was found for a text."""

    picture: str
    score: str
    right: bool


@dataclass(frozen=True)
class TextsExample:
    """A picture, and the texts found for it."""

    picture: str
    rank: str
    texts: tuple[FoundText, ...]


@dataclass(frozen=True)
class PicturesExample:
    """A text, and the pictures found for it."""

    text: str
    rank: str
    pictures: tuple[FoundPicture, ...]


@dataclass(frozen=True)
class RetrievalView:
    """What the page shows of an evaluation of retrieval."""

    size: str
    tie_rule: str
    order_rule: str  # of what is re-ranked
    directions: tuple[Direction, ...]
    bars: BarPicture | None
    curve: Curve | None
    texts_examples: tuple[TextsExample, ...]
    pictures_examples: tuple[PicturesExample, ...]
    overlap: Overlap


def read_retrieval(found: dict[str, Any], folder: Path) -> RetrievalView | None:
    """None where there is nothing to show."""
    if not found:
        return None
    examples = mapping(found.get("examples"))
    return RetrievalView(
        size=_size(found),
        tie_rule=text(found.get("tie_rule")),
        order_rule=text(found.get("order_rule")),
        directions=tuple(_directions(found)),
        bars=_bars(read_headlines(found)),
        curve=draw_curve(found.get("curve")),
        texts_examples=tuple(
            _texts_example(entry, folder)
            for entry in records(examples.get("image_to_text"))[:MAX_EXAMPLES]
        ),
        pictures_examples=tuple(
            _pictures_example(entry, folder)
            for entry in records(examples.get("text_to_image"))[:MAX_EXAMPLES]
        ),
        overlap=read_overlap(found.get("overlap")),
    )


def read_headlines(found: dict[str, Any]) -> tuple[Headline, ...]:
    """Recall@1 of each direction and stage."""
    return tuple(
        headline
        for way in DIRECTIONS
        for stage in STAGES
        if (headline := _headline(found, way, stage)) is not None
    )


def _headline(found: dict[str, Any], way: str, stage: str) -> Headline | None:
    own = _stage(found, way, stage)
    recall = share(own.get("recall@1"))
    if recall is None:
        return None
    title, counted, unit = DIRECTIONS[way]
    num = count(found.get(counted))
    chance = share(_chance(found, way).get("recall@1"))
    return Headline(
        title=f"{title} recall@1, {_stage_name(stage, own)}",
        value=recall,
        num=f"{num:,} {unit}" if num is not None else "",
        interval=interval(own.get("interval@1")),
        baselines=(Baseline("chance", chance),) if chance is not None else (),
        overlap=read_overlap(found.get("overlap")),
    )


def _stage(found: dict[str, Any], way: str, stage: str) -> dict[str, Any]:
    return mapping(mapping(mapping(found.get("directions")).get(way)).get(stage))


def _chance(found: dict[str, Any], way: str) -> dict[str, Any]:
    return mapping(mapping(found.get("chance")).get(way))


def _stage_name(stage: str, own: dict[str, Any]) -> str:
    num = count(own.get("k"))
    return f"{STAGES[stage]} (top {num:,})" if stage == "reranked" and num else STAGES[stage]


def _size(found: dict[str, Any]) -> str:
    """ "1,000 images, 5,000 texts, 5 captions an image"."""
    parts = [
        f"{num:,} {unit}"
        for name, unit in (("num_images", "images"), ("num_texts", "texts"))
        if (num := count(found.get(name))) is not None
    ]
    captions = number(found.get("captions_per_image"))
    parts += [f"{format_number(captions)} captions an image"] if captions is not None else []
    return ", ".join(parts)


def _directions(found: dict[str, Any]) -> Iterator[Direction]:
    for way, (title, _, _) in DIRECTIONS.items():
        stages = {stage: _stage(found, way, stage) for stage in STAGES}
        rows = [_row(_stage_name(stage, own), own) for stage, own in stages.items() if own]
        if rows and _chance(found, way):
            rows.append(_row("chance", _chance(found, way), is_chance=True))
        if rows:
            yield Direction(title, tuple(rows))


def _row(name: str, own: dict[str, Any], is_chance: bool = False) -> StageRow:
    recalls = [share(own.get(recall)) for recall in RECALLS]
    rank = number(own.get("median_rank"))
    return StageRow(
        name=name,
        recalls=tuple("–" if recall is None else percent(recall) for recall in recalls),
        interval_text=percent_interval(interval(own.get("interval@1"))),
        median_rank="–" if rank is None else format_number(rank),
        is_chance=is_chance,
    )


def _bars(headlines: tuple[Headline, ...]) -> BarPicture | None:
    given = [
        Given(
            label=headline.title.replace(" recall@1", ""),
            value=headline.value,
            interval=headline.interval,
            level=headline.baselines[0].value if headline.baselines else None,
            kind="own" if STAGES["reranked"] in headline.title else "other",
        )
        for headline in headlines
    ]
    return draw_bars("Recall@1", given)


def _texts_example(entry: dict[str, Any], folder: Path) -> TextsExample:
    return TextsExample(
        picture=embed(folder, entry.get("image")),
        rank=_rank(entry),
        texts=tuple(
            FoundText(text(one.get("text")), score_text(one), one.get("right") is True)
            for one in records(entry.get("texts"))[:MAX_CANDIDATES]
        ),
    )


def _pictures_example(entry: dict[str, Any], folder: Path) -> PicturesExample:
    return PicturesExample(
        text=text(entry.get("text")),
        rank=_rank(entry),
        pictures=tuple(
            FoundPicture(
                embed(folder, one.get("image"), MAX_SMALL_SIDE),
                score_text(one),
                one.get("right") is True,
            )
            for one in records(entry.get("images"))[:MAX_CANDIDATES]
        ),
    )


def _rank(entry: dict[str, Any]) -> str:
    num = count(entry.get("rank"))
    return f"{num:,}" if num is not None else "–"
