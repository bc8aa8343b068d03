"""Shards out of a folder of pictures and a caption file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.caption_files import open_captions
from data_tools.caption_rows import CaptionOptions, CaptionRow
from data_tools.output import TarSample, new_folder, write_shards
from data_tools.parallel import ordered_map
from data_tools.pictures import PictureError, find_picture, load_picture
from data_tools.progress import tracked
from vlpretrain.data.index import load_index
from vlpretrain.errors import UserError

NAMED = 5  # how many of a kind of problem are named, besides their count


@dataclass(frozen=True, slots=True)
class MakeOptions:
    """What `make` does beyond reading captions; `split` and `only`, where set, choose pictures."""

    shard_size: int = 1000
    resize: int | None = None
    split: str = ""
    only: Path | None = None
    strict: bool = False
    overwrite: bool = False
    workers: int = 1


@dataclass(slots=True)
class MakeReport:
    """What was understood, written and left out."""

    understood: dict[str, str] = field(default_factory=dict)
    shards: int = 0
    samples: int = 0
    captions: int = 0
    converted: int = 0
    blank_captions: int = 0
    without_caption: int = 0
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The summary for the screen."""
        lines = [f"{name}: {value}" for name, value in self.understood.items()]
        lines.append(f"{self.samples:,} pictures, {self.captions:,} captions, {self.shards} shards")
        for count, what in (
            (self.converted, "pictures re-encoded"),
            (self.blank_captions, "blank captions left out"),
            (self.without_caption, "pictures without any caption left out"),
        ):
            if count:
                lines.append(f"{count:,} {what}")
        if self.missing:
            lines.append(_named("pictures missing", self.missing))
        if self.unreadable:
            lines.append(_named("files that are no usable picture", self.unreadable))
        return lines


@dataclass(slots=True)
class CaptionedPicture:
    """One picture of the caption file, and all that it says of it."""

    name: str
    captions: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Job:
    key: str
    path: Path
    picture: CaptionedPicture
    resize: int | None


@dataclass(frozen=True, slots=True)
class _Built:
    """A sample, or why there is none."""

    sample: TarSample | None
    name: str
    captions: int
    converted: bool = False
    reason: str = ""


def make_shards(
    images: Path, captions: Path, out: Path, reading: CaptionOptions, options: MakeOptions
) -> MakeReport:
    """Writes the shards and their indexes to `out`, whole or not at all.

    The caption file's texts are held in memory; pictures pass through one by one.
    """
    if not images.is_dir():
        raise UserError("no such folder of pictures", where=str(images), fix="check --images")
    opened = open_captions(captions, reading)
    report = MakeReport(understood=opened.understood)
    rows = _chosen(opened.rows, options, str(captions))
    grouped = _group(tracked(rows, "captions read"), report)
    with new_folder(out, overwrite=options.overwrite) as folder:
        jobs = _jobs(grouped, images, options.resize, report)
        _check_missing(report, images, captions, len(jobs), options.strict)
        built = ordered_map(_build, jobs, options.workers)
        samples = _kept(tracked(built, "pictures written", len(jobs)), report, options.strict)
        shards = write_shards(folder, samples, options.shard_size, prefix="shard")
        for shard in shards:
            load_index(str(shard))
            report.shards += 1
        if not report.samples:
            problem = _named("files, and none is a usable picture", report.unreadable)
            raise UserError(problem, where=str(images))
    return report


def _chosen(rows: Iterable[CaptionRow], options: MakeOptions, where: str) -> Iterator[CaptionRow]:
    """The rows of the wanted split and pictures; a split without rows is a mistake."""
    only = None if options.only is None else _listed(options.only)
    splits: set[str] = set()
    found = False
    for row in rows:
        splits.add(row.split)
        if options.split and row.split != options.split:
            continue
        if only is not None and row.picture not in only:
            continue
        found = True
        yield row
    if not found and options.split and options.split not in splits:
        there = ", ".join(sorted(splits - {""})) or "none"
        problem = f"no caption of split {options.split!r}"
        raise UserError(problem, where=where, fix=f"splits there: {there}")


def _listed(path: Path) -> set[str]:
    if not path.is_file():
        raise UserError("no such list of pictures", where=str(path), fix="check --only")
    return {line.strip() for line in path.read_text(encoding="utf-8").splitlines()} - {""}


def _group(rows: Iterable[CaptionRow], report: MakeReport) -> list[CaptionedPicture]:
    """Captions by picture, in the order in which the pictures first occur."""
    pictures: dict[str, CaptionedPicture] = {}
    for row in rows:
        picture = pictures.setdefault(row.picture, CaptionedPicture(row.picture))
        picture.metadata.update(row.metadata)
        caption = row.caption.strip()
        if caption:
            picture.captions.append(caption)
        else:
            report.blank_captions += 1
    captioned = [picture for picture in pictures.values() if picture.captions]
    report.without_caption = len(pictures) - len(captioned)
    return captioned


def _jobs(
    pictures: list[CaptionedPicture], images: Path, resize: int | None, report: MakeReport
) -> list[_Job]:
    jobs: list[_Job] = []
    for picture in tracked(pictures, "pictures looked up", len(pictures)):
        path = find_picture(images, picture.name)
        if path is None:
            report.missing.append(picture.name)
        else:
            jobs.append(_Job(f"{len(jobs):09d}", path, picture, resize))
    return jobs


def _check_missing(
    report: MakeReport, images: Path, captions: Path, found: int, strict: bool
) -> None:
    if report.missing and (strict or not found):
        fix = "check --images, or leave --strict out to go on without them" if strict else ""
        problem = _named("pictures missing", report.missing)
        raise UserError(problem, where=str(images), fix=fix or "check --images")
    if not found:
        raise UserError(
            "no picture with a caption",
            where=str(captions),
            fix="check --captions, --split and --only",
        )


def _build(job: _Job) -> _Built:
    picture = job.picture
    try:
        stored = load_picture(job.path, job.resize)
    except (PictureError, OSError) as error:
        return _Built(None, picture.name, 0, reason=str(error))
    record = {"image_id": picture.name, "file_name": picture.name} | picture.metadata
    record["captions"] = picture.captions
    sample: TarSample = {
        "__key__": job.key,
        stored.extension: stored.data,
        "json": json.dumps(record, ensure_ascii=False).encode("utf-8", "replace"),
    }
    return _Built(sample, picture.name, len(picture.captions), stored.converted)


def _kept(built: Iterable[_Built], report: MakeReport, strict: bool) -> Iterator[TarSample]:
    for result in built:
        if result.sample is None:
            problem = f"{result.name} ({result.reason})"
            if strict:
                raise UserError(f"not a usable picture: {problem}", fix="or leave --strict out")
            report.unreadable.append(problem)
            continue
        report.samples += 1
        report.captions += result.captions
        report.converted += result.converted
        yield result.sample


def _named(what: str, names: list[str]) -> str:
    more = f", and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{len(names):,} {what}: {', '.join(names[:NAMED])}{more}"
