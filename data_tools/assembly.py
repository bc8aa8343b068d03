"""From picture files and their records to shards: what `make` and `convert` share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.output import TarSample, write_shards
from data_tools.parallel import ordered_map
from data_tools.pictures import PictureError, StoredPicture, load_picture
from data_tools.progress import tracked
from vlpretrain.data.index import load_index
from vlpretrain.errors import UserError

NAMED = 5  # how many of a kind of problem are named, besides their count


@dataclass(frozen=True, slots=True)
class WritingOptions:
    """How samples become shards; `resize` is the shorter side in pixels."""

    shard_size: int = 1000
    resize: int | None = None
    strict: bool = False
    overwrite: bool = False
    workers: int = 1


@dataclass(frozen=True, slots=True)
class SampleJob:
    """One sample to write: its picture files and the JSON beside them."""

    key: str
    name: str  # for messages
    paths: tuple[Path, ...]
    record: dict[str, Any]
    resize: int | None = None


@dataclass(slots=True)
class Written:
    """What went into the shards, and which files could not."""

    shards: int = 0
    samples: int = 0
    pictures: int = 0
    captions: int = 0
    questions: int = 0
    converted: int = 0
    unreadable: list[str] = field(default_factory=list)

    def problem_lines(self) -> list[str]:
        """Lines for the screen about what was changed or left out."""
        lines = [f"{self.converted:,} pictures re-encoded"] if self.converted else []
        if self.unreadable:
            lines.append(named("files that are no usable picture", self.unreadable))
        return lines


@dataclass(frozen=True, slots=True)
class _Built:
    """A sample, or why there is none."""

    sample: TarSample | None
    job: SampleJob
    converted: int = 0
    reason: str = ""


def write_samples(folder: Path, jobs: Sequence[SampleJob], options: WritingOptions) -> Written:
    """Writes shards and their indexes to a working folder; pictures pass through one by one.

    Raises:
        UserError: no picture is usable, or with `strict` one is not.
    """
    written = Written()
    built = ordered_map(_build, jobs, options.workers)
    samples = _kept(tracked(built, "samples written", len(jobs)), written, options.strict)
    for shard in write_shards(folder, samples, options.shard_size, prefix="shard"):
        load_index(str(shard))
        written.shards += 1
    if not written.samples:
        raise UserError(named("files, and none is a usable picture", written.unreadable))
    return written


def named(what: str, names: Sequence[str]) -> str:
    """How many of something, and the first few by name."""
    more = f", and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{len(names):,} {what}: {', '.join(names[:NAMED])}{more}"


def _build(job: SampleJob) -> _Built:
    stored: list[StoredPicture] = []
    for path in job.paths:
        try:
            stored.append(load_picture(path, job.resize))
        except (PictureError, OSError) as error:
            name = job.name if len(job.paths) == 1 else path.name
            return _Built(None, job, reason=f"{name} ({error})")
    sample: TarSample = {"__key__": job.key}
    for number, picture in enumerate(stored):
        # Alone, a picture is KEY.png; of several, each has its number: KEY.0.png, KEY.1.png.
        order = f"{number}." if len(stored) > 1 else ""
        sample[order + picture.extension] = picture.data
    sample["json"] = json.dumps(job.record, ensure_ascii=False).encode("utf-8", "replace")
    return _Built(sample, job, converted=sum(picture.converted for picture in stored))


def _kept(built: Iterable[_Built], written: Written, strict: bool) -> Iterator[TarSample]:
    for result in built:
        if result.sample is None:
            if strict:
                problem = f"not a usable picture: {result.reason}"
                raise UserError(problem, fix="or leave --strict out")
            written.unreadable.append(result.reason)
            continue
        record = result.job.record
        written.samples += 1
        written.pictures += len(result.job.paths)
        written.captions += len(record.get("captions", ()))
        written.questions += len(record.get("questions", ()))
        written.converted += result.converted
        yield result.sample
