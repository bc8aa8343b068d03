"""What shards hold, counted: pictures, captions, questions, duplicates; and a contact sheet."""

from __future__ import annotations

import io
import json
import warnings
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_tools.contact_sheet import Tile, draw_contact_sheet
from data_tools.inspection_text import report_lines
from data_tools.progress import tracked
from data_tools.reading import open_shards, read_samples
from vlpretrain.data.keyed import stable_hash
from vlpretrain.data.sample import SampleError, parse_sample
from vlpretrain.data.sidecar import write_atomically
from vlpretrain.types import RawSample, Sample

SHEET_TILES = 24


@dataclass(slots=True)
class Counts:
    """Everything that one pass over the samples collects; numbers in arrays, 8 bytes each."""

    formats: Counter[str] = field(default_factory=Counter)
    picture_only: int = 0
    text_only: int = 0
    unreadable: int = 0
    questions: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    widths: array[int] = field(default_factory=lambda: array("q"))
    heights: array[int] = field(default_factory=lambda: array("q"))
    picture_bytes: array[int] = field(default_factory=lambda: array("q"))
    captions_of_picture: array[int] = field(default_factory=lambda: array("q"))
    caption_words: array[int] = field(default_factory=lambda: array("q"))
    picture_hashes: array[int] = field(default_factory=lambda: array("q"))
    caption_hashes: array[int] = field(default_factory=lambda: array("q"))
    tiles: list[Tile] = field(default_factory=list)


def inspect_shards(spec: str, out: Path | None) -> str:
    """Counts what the shards hold; with `out`, also writes inspect.json and contact_sheet.png.

    Pictures are opened up to their headers; `validate` decodes them.
    """
    source = open_shards(spec)
    total = int(source.sizes.sum())
    counts = Counts()
    on_sheet = set(np.linspace(0, total - 1, min(SHEET_TILES, total)).round().astype(int).tolist())
    samples = tracked(read_samples(source), "samples inspected", total)
    for number, raw in enumerate(samples):
        count_sample(raw, counts, on_sheet=number in on_sheet)
    shard_records = [
        {
            "path": shard.path,
            "samples": len(shard),
            "bytes": shard.file_size,
            "problems": len(shard.problems),
        }
        for shard in source.shards
    ]
    record = {"shards": shard_records} | summarise(counts)
    lines = report_lines(spec, record)
    if out is not None:
        lines += [f"written: {path}" for path in _write(out, record, counts.tiles, spec)]
    return "\n".join(lines)


def count_sample(raw: RawSample, counts: Counts, *, on_sheet: bool) -> None:
    """Adds one sample to the counts."""
    try:
        sample = parse_sample(raw)
    except SampleError:
        counts.unreadable += 1
        return
    label, questions = sample.metadata.get("label"), _questions(sample)
    if sample.image is None:
        counts.text_only += 1
    else:
        for image in sample.images:
            _count_picture(image, counts)
        counts.captions_of_picture.append(len(sample.captions))
        counts.picture_only += not (sample.captions or questions or label is not None)
    for caption in sample.captions:
        words = caption.split()
        counts.caption_words.append(len(words))
        counts.caption_hashes.append(stable_hash(" ".join(words).lower()))
    counts.questions.update(str(item.get("question_type") or "any") for item in questions)
    if label is not None:
        counts.labels[str(label)] += 1
    if on_sheet and sample.image is not None:
        counts.tiles.append(_tile(sample, sample.image))


def summarise(counts: Counts) -> dict[str, Any]:
    """The counts as plain numbers for JSON and the screen."""
    return {
        "pictures": {
            "count": len(counts.picture_hashes),
            "formats": dict(counts.formats.most_common()),
            "width": _spread(counts.widths),
            "height": _spread(counts.heights),
            "bytes": _spread(counts.picture_bytes),
            "duplicates": _repeats(counts.picture_hashes),
        },
        "captions": {
            "count": len(counts.caption_words),
            "words": _spread(counts.caption_words),
            "per_picture": _spread(counts.captions_of_picture),
            "duplicates": _repeats(counts.caption_hashes),
        },
        "questions": dict(counts.questions.most_common()),
        "labels": dict(counts.labels.most_common()),
        "samples": {
            "picture_only": counts.picture_only,
            "text_only": counts.text_only,
            "unreadable": counts.unreadable,
        },
    }


def _questions(sample: Sample) -> list[dict[str, Any]]:
    listed = sample.metadata.get("questions")
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _count_picture(data: bytes, counts: Counts) -> None:
    counts.picture_bytes.append(len(data))
    counts.picture_hashes.append(stable_hash(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes: this only counts
            with Image.open(io.BytesIO(data)) as picture:
                counts.formats[f"{picture.format} {picture.mode}"] += 1
                counts.widths.append(picture.width)
                counts.heights.append(picture.height)
    except Exception:  # Pillow's readers raise nearly anything on broken bytes
        counts.formats["not readable"] += 1


def _tile(sample: Sample, image: bytes) -> Tile:
    texts = list(sample.captions) or [_asked(item) for item in _questions(sample)]
    if not texts and "label" in sample.metadata:
        texts = [f"label: {sample.metadata['label']}"]
    more = len(texts) - 1
    what = "captions" if sample.captions else "questions"
    label = f"{Path(sample.shard).stem}/{sample.key}" + (f"  +{more} {what}" if more > 0 else "")
    return Tile(image, texts[0] if texts else "", label)


def _asked(question: dict[str, Any]) -> str:
    """A question with its commonest answer, for reading."""
    answers = question.get("answers") or []
    commonest = Counter(map(str, answers)).most_common(1)
    answer = commonest[0][0] if commonest else "?"
    return f"{question.get('question', '')} → {answer}"


def _spread(values: array[int]) -> dict[str, float]:
    """Smallest, median, 95th of a hundred, largest, mean; empty where there is nothing."""
    if not values:
        return {}
    numbers = np.asarray(values)
    return {
        "min": int(numbers.min()),
        "median": float(np.median(numbers)),
        "p95": float(np.percentile(numbers, 95)),
        "max": int(numbers.max()),
        "mean": round(float(numbers.mean()), 2),
    }


def _repeats(hashes: array[int]) -> int:
    """How many come again after their like."""
    return len(hashes) - len(np.unique(np.asarray(hashes)))


def _write(out: Path, record: dict[str, Any], tiles: list[Tile], spec: str) -> list[Path]:
    picture = io.BytesIO()
    samples = sum(shard["samples"] for shard in record["shards"])
    title = f"{spec}: {len(tiles)} of {samples:,} samples"
    draw_contact_sheet(tiles, title).save(picture, format="PNG")
    contents = {
        out / "inspect.json": json.dumps(record, indent=2).encode(),
        out / "contact_sheet.png": picture.getvalue(),
    }
    for path, content in contents.items():
        write_atomically(path, content)
    return list(contents)
