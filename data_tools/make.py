"""Shards out of a folder of pictures and a caption file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.assembly import SampleJob, WritingOptions, Written, named, write_samples
from data_tools.caption_files import open_captions
from data_tools.caption_rows import CaptionOptions, CaptionRow
from data_tools.output import new_folder
from data_tools.pictures import PictureFolder
from data_tools.progress import tracked
from vlpretrain.errors import UserError


@dataclass(frozen=True, slots=True)
class MakeOptions:
    """Which pictures `make` takes, where that is said, and how it writes them."""

    split: str = ""
    only: Path | None = None  # a file that lists the pictures
    writing: WritingOptions = WritingOptions()


@dataclass(slots=True)
class MakeReport:
    """What was understood, written and left out."""

    understood: dict[str, str] = field(default_factory=dict)
    listed_pictures: int = 0  # chosen, whether their files are there or not
    listed_captions: int = 0
    blank_captions: int = 0
    without_caption: int = 0
    missing: list[str] = field(default_factory=list)
    written: Written = field(default_factory=Written)

    def lines(self) -> list[str]:
        """The summary for the screen."""
        written = self.written
        counted = f"{written.samples:,} pictures, {written.captions:,} captions"
        lines = [f"{name}: {value}" for name, value in self.understood.items()]
        lines.append(f"{counted}, {written.shards} shards")
        if self.blank_captions:
            lines.append(f"{self.blank_captions:,} blank captions left out")
        if self.without_caption:
            lines.append(f"{self.without_caption:,} pictures without any caption left out")
        if self.missing:
            lines.append(named("pictures missing", self.missing))
        return lines + written.problem_lines()


@dataclass(slots=True)
class CaptionedPicture:
    """One picture of the caption file, and all that it says of it."""

    name: str
    captions: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The JSON beside the picture."""
        record = {"image_id": self.name, "file_name": self.name} | self.metadata
        return record | {"captions": self.captions}


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
    grouped = _group(tracked(rows, "captions read"), report, str(captions))
    with new_folder(out, overwrite=options.writing.overwrite) as folder:
        jobs = _jobs(grouped, images, options.writing.resize, report)
        _check_missing(report, images, captions, len(jobs), options.writing.strict)
        report.written = write_samples(folder, jobs, options.writing)
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
        there = sorted(splits - {""})
        if there:
            problem, fix = "no caption of", f"splits there: {', '.join(there)}"
        else:
            problem = "the caption file says nothing of splits, and one was asked for:"
            fix = "leave --split out, or give a file that lists the split's pictures with --only"
        raise UserError(f"{problem} split {options.split!r}", where=where, fix=fix)


def _listed(path: Path) -> set[str]:
    if not path.is_file():
        raise UserError("no such list of pictures", where=str(path), fix="check --only")
    return {line.strip() for line in path.read_text(encoding="utf-8").splitlines()} - {""}


def _group(rows: Iterable[CaptionRow], report: MakeReport, where: str) -> list[CaptionedPicture]:
    """Captions by picture, in the order in which the pictures first occur."""
    pictures: dict[str, CaptionedPicture] = {}
    for row in rows:
        picture = pictures.setdefault(row.picture, CaptionedPicture(row.picture))
        picture.metadata.update(row.metadata)
        if row.split:
            picture.metadata["split"] = row.split
        caption = row.caption.strip()
        if caption:
            picture.captions.append(caption)
        else:
            report.blank_captions += 1
    captioned = [picture for picture in pictures.values() if picture.captions]
    report.listed_pictures = len(pictures)
    report.listed_captions = sum(len(picture.captions) for picture in captioned)
    report.without_caption = len(pictures) - len(captioned)
    _check_ids(captioned, where)
    return captioned


def _check_ids(pictures: list[CaptionedPicture], where: str) -> None:
    names: dict[Any, str] = {}
    for picture in pictures:
        number = picture.metadata.get("image_id", picture.name)
        other = names.setdefault(number, picture.name)
        if other != picture.name:
            problem = f"two pictures under one id, {number!r}: {other} and {picture.name}"
            raise UserError(problem, where=where, fix="give each picture an id of its own")


def _jobs(
    pictures: list[CaptionedPicture], images: Path, resize: int | None, report: MakeReport
) -> list[SampleJob]:
    folder, jobs = PictureFolder(images), list[SampleJob]()
    for picture in tracked(pictures, "pictures looked up", len(pictures)):
        path = folder.find(picture.name)
        if path is None:
            report.missing.append(picture.name)
        else:
            key = f"{len(jobs):09d}"
            jobs.append(SampleJob(key, picture.name, (path,), picture.record(), resize))
    return jobs


def _check_missing(
    report: MakeReport, images: Path, captions: Path, found: int, strict: bool
) -> None:
    if report.missing and (strict or not found):
        fix = "check --images, or leave --strict out to go on without them" if strict else ""
        problem = named("pictures missing", report.missing)
        raise UserError(problem, where=str(images), fix=fix or "check --images")
    if not found:
        raise UserError(
            "no picture with a caption",
            where=str(captions),
            fix="check --captions, --split and --only",
        )
