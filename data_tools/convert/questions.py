"""Writes what a question file says, and the pictures that it speaks of, to shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.assembly import SampleJob, WritingOptions, Written, named, write_samples
from data_tools.convert.annotations import Annotations, PictureRecord, QuestionFiles
from data_tools.convert.published import check_published, recognise_split
from data_tools.output import new_folder
from data_tools.pictures import PictureFolder
from data_tools.progress import tracked
from vlpretrain.errors import UserError

Reader = Callable[[QuestionFiles], Annotations]


@dataclass(frozen=True, slots=True)
class QuestionOptions:
    """What is read, and how it is written."""

    questions: Path
    annotations: Path | None = None
    images: Path | None = None  # the folder `images` beside the questions, where not given
    split: str = ""
    allow_unanswered: bool = False
    writing: WritingOptions = WritingOptions()


@dataclass(slots=True)
class QuestionReport:
    """What was found, written and left out."""

    published: str = ""
    notes: list[str] = field(default_factory=list)
    unanswered: int = 0
    missing: list[str] = field(default_factory=list)
    missing_questions: int = 0
    written: Written = field(default_factory=Written)

    def lines(self) -> list[str]:
        """The summary for the screen."""
        lines, written = [self.published, *self.notes], self.written
        if self.unanswered:
            lines.append(f"{self.unanswered:,} questions without an answer, as allowed")
        if self.missing:
            lines.append(f"{_missing(self.missing, self.missing_questions)}: left out")
        lines += written.problem_lines()
        counted = f"{written.samples:,} samples, {written.questions:,} questions"
        return [*lines, f"{counted}, {written.shards} shards"]


def convert_questions(
    data_set: str, read: Reader, out: Path, options: QuestionOptions
) -> QuestionReport:
    """Writes a data set's shards and their indexes to `out`, whole or not at all.

    A sample is a picture (or two) with all its questions, so that it is encoded once for all.

    Raises:
        UserError: a file can't be understood, a question has no answer, or with `strict` a
            picture is missing.
    """
    files = _files(options)
    found = read(files)
    split = options.split or found.split or recognise_split(data_set, files.questions)
    report = QuestionReport(notes=list(found.notes))
    asked = sum(len(picture.questions) for picture in found.pictures)
    listed = asked if found.num_listed is None else found.num_listed
    report.published = check_published(data_set, split, len(found.pictures), listed, "questions")
    _check_ids(found, options.questions)
    report.unanswered = _check_answers(found, options)
    with new_folder(out, overwrite=options.writing.overwrite) as folder:
        jobs = _jobs(found, files.pictures, split, options.writing.resize, report)
        _check_missing(report, files.pictures.folder, len(jobs), options.writing.strict)
        report.written = write_samples(folder, jobs, options.writing)
    return report


def _files(options: QuestionOptions) -> QuestionFiles:
    for path, option in ((options.questions, "questions"), (options.annotations, "annotations")):
        if path is not None and not path.is_file():
            raise UserError("no such file", where=str(path), fix=f"check --{option}")
    images = options.images or options.questions.parent / "images"
    if not images.is_dir():
        fix = "name the folder that holds the pictures with --images"
        raise UserError("no such folder of pictures", where=str(images), fix=fix)
    return QuestionFiles(
        options.questions, options.annotations, PictureFolder(images), options.split
    )


def _check_ids(found: Annotations, where: Path) -> None:
    asked = (item["question_id"] for picture in found.pictures for item in picture.questions)
    twice = [str(number) for number, count in Counter(asked).items() if count > 1]
    if twice:
        raise UserError(named("question_ids come more than once", twice), where=str(where))


def _check_answers(found: Annotations, options: QuestionOptions) -> int:
    """How many questions have no answer, where that is allowed."""
    unanswered = [
        str(question["question_id"])
        for picture in found.pictures
        for question in picture.questions
        if not question["answers"]
    ]
    if unanswered and not options.allow_unanswered:
        fix = "give --annotations if the answers are in a file of their own; for a test set whose "
        fix += "answers are not public, --allow-unanswered"
        problem = named("questions without an answer, by question_id", unanswered)
        raise UserError(problem, where=str(options.annotations or options.questions), fix=fix)
    return len(unanswered)


def _jobs(
    found: Annotations,
    folder: PictureFolder,
    split: str,
    resize: int | None,
    report: QuestionReport,
) -> list[SampleJob]:
    jobs: list[SampleJob] = []
    for picture in tracked(found.pictures, "pictures looked up", len(found.pictures)):
        paths = [folder.find(*names) for names in picture.names]
        there = [path for path in paths if path is not None]
        if len(there) < len(paths):
            lost = (names[0] for names, path in zip(picture.names, paths, strict=True) if not path)
            report.missing += lost
            report.missing_questions += len(picture.questions)
        else:
            record = _record(picture, there, split)
            key = f"{len(jobs):09d}"
            jobs.append(SampleJob(key, picture.name, tuple(there), record, resize))
    return jobs


def _record(picture: PictureRecord, paths: list[Path], split: str) -> dict[str, Any]:
    """The JSON beside the pictures."""
    names = [path.name for path in paths]
    record: dict[str, Any] = {
        "image_id": picture.image_id,
        "file_name": names[0] if len(names) == 1 else names,
    }
    if split:
        record["split"] = split.partition("_")[
            0
        ]  # "train_balanced" is what is published of "train"
    return record | picture.metadata | {"questions": picture.questions}


def _check_missing(report: QuestionReport, folder: Path, found: int, strict: bool) -> None:
    if report.missing and (strict or not found):
        fix = "check --images" + (", or leave --strict out to go on without them" if found else "")
        problem = _missing(report.missing, report.missing_questions)
        raise UserError(problem, where=str(folder), fix=fix)
    if not found:
        raise UserError("no question in the files", where=str(folder), fix="check --questions")


def _missing(names: list[str], questions: int) -> str:
    return f"{named('pictures missing', names)} (with {questions:,} questions)"
