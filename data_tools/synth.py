"""Renders the embedded data set: pictures of shapes, with captions and questions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from data_tools.drawing import draw_png
from data_tools.output import TarSample, new_folder, write_shard
from data_tools.parallel import ordered_map
from data_tools.progress import tracked
from data_tools.scene_texts import Question, scene_captions, scene_questions
from data_tools.scenes import SPLITS, Scene, draw_scene
from vlpretrain.data.index import load_index
from vlpretrain.errors import UserError

# Ids never meet across splits.
IDS_PER_SPLIT = 100_000_000
SMALLEST_PICTURE = 32


@dataclass(frozen=True, slots=True)
class SynthOptions:
    """What is rendered. `samples` prolongs a data set without changing its start."""

    samples: int
    seed: int = 0
    split: str = "train"
    image_size: int = 96
    shard_size: int = 1000


@dataclass(frozen=True, slots=True)
class _ShardJob:
    path: Path
    first: int
    last: int
    options: SynthOptions


def synthesise(out: Path, options: SynthOptions, *, overwrite: bool, workers: int) -> int:
    """Writes the data set's shards to `out`, whole or not at all; returns how many."""
    _check(options)
    with new_folder(out, overwrite=overwrite) as folder:
        firsts = range(0, options.samples, options.shard_size)
        jobs = [
            _ShardJob(
                path=folder / f"{options.split}-{number:06d}.tar",
                first=first,
                last=min(first + options.shard_size, options.samples),
                options=options,
            )
            for number, first in enumerate(firsts)
        ]
        written = ordered_map(_write_job, jobs, workers)
        return len(list(tracked(written, "shards rendered", len(jobs))))


def render_sample(index: int, options: SynthOptions) -> TarSample:
    """Sample `index`: a pure function of (seed, split, index, picture size)."""
    scene = draw_scene(options.seed, options.split, index)
    record = describe(scene, index, options)
    return {
        "__key__": f"{options.split}{index:08d}",
        "png": draw_png(scene, options.image_size),
        "json": json.dumps(record, ensure_ascii=False).encode(),
    }


def describe(scene: Scene, index: int, options: SynthOptions) -> dict[str, Any]:
    """The JSON beside a picture: captions, questions, and the scene itself (boxes in pixels)."""
    random = Random(f"texts/{options.seed}/{options.split}/{index}")
    image_id = list(SPLITS).index(options.split) * IDS_PER_SPLIT + index
    return {
        "captions": scene_captions(scene, random),
        "questions": [
            _question_record(question, image_id * 10 + number)
            for number, question in enumerate(scene_questions(scene, random))
        ],
        "image_id": image_id,
        "scene": _scene_record(scene, options.image_size),
    }


def _write_job(job: _ShardJob) -> Path:
    write_shard(job.path, _samples(job))
    load_index(str(job.path))
    return job.path


def _samples(job: _ShardJob) -> Iterator[TarSample]:
    for index in range(job.first, job.last):
        yield render_sample(index, job.options)


def _question_record(question: Question, question_id: int) -> dict[str, Any]:
    return {
        "question": question.text,
        "answers": [question.answer],
        "question_id": question_id,
        "question_type": question.kind,
    }


def _scene_record(scene: Scene, image_size: int) -> dict[str, Any]:
    objects = [
        {
            "shape": item.shape,
            "colour": item.colour,
            "size": item.size,
            "box": [round(edge * image_size, 2) for edge in item.box],
        }
        for item in scene.objects
    ]
    return {"objects": objects, "background": list(scene.background)}


def _check(options: SynthOptions) -> None:
    if options.split not in SPLITS:
        known = ", ".join(SPLITS)
        raise UserError(f"unknown split {options.split!r}", where="--split", fix=f"one of {known}")
    for option, value, least, most in (
        ("--samples", options.samples, 1, IDS_PER_SPLIT),
        ("--image-size", options.image_size, SMALLEST_PICTURE, 4096),
        ("--shard-size", options.shard_size, 1, IDS_PER_SPLIT),
    ):
        if not least <= value <= most:
            raise UserError(f"{value} is out of range", where=option, fix=f"{least} to {most}")
