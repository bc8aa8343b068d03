"""Every problem of shards, found by reading and decoding all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.parallel import ordered_map
from data_tools.progress import say, tracked
from data_tools.reading import open_shards, read_rows, shard_problems
from vlpretrain.config.schema import DataConfig
from vlpretrain.data.decode import Box, DecodeError, decode_crop
from vlpretrain.data.index import ShardIndex, content_matches, read_index, scan_shard
from vlpretrain.data.remote import is_remote
from vlpretrain.data.sample import MAX_CAPTION_CHARACTERS, SampleError, parse_sample
from vlpretrain.data.shards import resolve_shards
from vlpretrain.types import RawSample, Sample, Skip

ROWS_OF_A_JOB = 256
SHRUNK = 32  # pixels; a picture is decoded at its full size and then shrunk to this
REASON_LENGTH = 200  # characters shown


@dataclass(frozen=True, slots=True)
class _RowsJob:
    spec: str
    path: str
    shard: int
    rows: range


def validate_shards(spec: str, workers: int = 1) -> int:
    """Prints every problem with its shard, key and reason; returns the exit code."""
    count = 0
    for problem in find_problems(spec, workers):
        count += 1
        say(f"{problem.shard}: {problem.key or '-'}: {problem.reason:.{REASON_LENGTH}}")
    say(f"{count:,} problems" if count else "no problem found")
    return 1 if count else 0


def find_problems(spec: str, workers: int = 1) -> Iterator[Skip]:
    """Every problem: of the index files, of the tars, then of each sample in order."""
    # Before the shards are opened, for that mends their indexes.
    for path in resolve_shards(spec):
        if not is_remote(path):
            yield from index_file_problems(path)
    source = open_shards(spec)
    yield from shard_problems(source)
    jobs = [
        _RowsJob(spec, index.path, shard, range(first, min(first + ROWS_OF_A_JOB, len(index))))
        for shard, index in enumerate(source.shards)
        for first in range(0, len(index), ROWS_OF_A_JOB)
    ]
    checked = ordered_map(_check_rows, jobs, workers)
    for problems in tracked(checked, f"groups of {ROWS_OF_A_JOB} samples validated", len(jobs)):
        yield from problems


def index_file_problems(path: str) -> Iterator[Skip]:
    """What is wrong with the index beside a shard. None there is no problem: one is made."""
    place = Path(f"{path}.idx")
    if not place.exists():
        return
    index = read_index(place, path)
    status = Path(path).stat()
    if index is None:
        yield Skip(path, "", f"the index {place.name} is damaged; it is made anew")
    elif (index.file_size, index.mtime_ns) != (status.st_size, status.st_mtime_ns):
        yield Skip(path, "", f"the index {place.name} is of another shard; it is made anew")
    elif not _same_content(index, scan_shard(path)):
        yield Skip(path, "", f"the index {place.name} does not fit the shard's content: delete it")


def sample_problems(raw: RawSample) -> list[str]:
    """What is wrong with one sample, as reasons."""
    try:
        sample = parse_sample(raw)
    except SampleError as error:
        return [str(error)]
    problems = list(_blank_captions(raw, sample))
    if sample.image is None and not sample.captions:
        problems.append("neither a picture nor a caption")
    problems += [reason for image in sample.images for reason in _picture_problems(image)]
    problems += [
        f"a caption of {MAX_CAPTION_CHARACTERS:,} characters or more is cut"
        for caption in sample.captions
        if len(caption) >= MAX_CAPTION_CHARACTERS
    ]
    return problems + list(_question_problems(sample.metadata.get("questions", [])))


def _check_rows(job: _RowsJob) -> list[Skip]:
    return [
        Skip(job.path, raw.key, reason)
        for raw in read_rows(job.spec, job.shard, job.rows)
        for reason in sample_problems(raw)
    ]


def _picture_problems(data: bytes) -> list[str]:
    """Decodes the whole picture as training would."""
    try:
        decode_crop(data, SHRUNK, _whole, max_pixels=DataConfig().max_pixels, fast=False)
    except DecodeError as error:
        return [str(error)]
    return []


def _whole(height: int, width: int) -> Box:
    return Box(0, 0, height, width)


def _blank_captions(raw: RawSample, sample: Sample) -> Iterator[str]:
    if "txt" in raw.parts and not raw.parts["txt"].decode("utf-8-sig").strip():
        yield "the caption in .txt is blank"
    listed = sample.metadata.get("captions")
    for number, caption in enumerate(listed if isinstance(listed, list) else []):
        if caption is None or not caption.strip():
            yield f"caption {number} in .json is blank"
    single = sample.metadata.get("caption")
    if isinstance(single, str) and not single.strip():
        yield "the caption in .json is blank"


def _question_problems(questions: Any) -> Iterator[str]:
    if not isinstance(questions, list):
        yield f"`questions` is a {type(questions).__name__}, not a list"
        return
    for number, record in enumerate(questions):
        reason = _question_problem(record)
        if reason:
            yield f"question {number} {reason}"


def _question_problem(record: Any) -> str:
    """Why it is no {question, answers}; empty where it is one."""
    if not isinstance(record, dict):
        return f"is a {type(record).__name__}, not an object"
    text, answers = record.get("question"), record.get("answers")
    if not isinstance(text, str) or not text.strip():
        return "has no text"
    if not isinstance(answers, list | dict):
        return "has no `answers`, a list of texts or an object of weights"
    if not all(isinstance(answer, str) for answer in answers):
        return "has an answer that is not a text"
    return ""


def _same_content(index: ShardIndex, scanned: ShardIndex) -> bool:
    arrays = ("key_byte_K", "key_start_N", "part_start_N", "part_offset_M", "part_size_M")
    same = all(np.array_equal(getattr(index, name), getattr(scanned, name)) for name in arrays)
    return same and (not index.content_hash or content_matches(index))
