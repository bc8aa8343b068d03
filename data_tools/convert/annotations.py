"""What every question file becomes: pictures, each with all that is asked of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from data_tools.pictures import PictureFolder
from vlpretrain.errors import UserError

Value = TypeVar("Value")

# Opening words that tell what kind of answer a question wants, the longer first.
_OPENINGS = (
    "how many", "how much", "what color", "what colour", "what kind", "what type", "what time",
    "what", "which", "who", "whose", "where", "when", "why", "how", "is", "are", "was", "were",
    "do", "does", "did", "can", "could", "has", "have", "will", "would", "should",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class QuestionFiles:
    """What a data set's reader is given."""

    questions: Path
    annotations: Path | None  # the answers, where they are in a file of their own
    pictures: PictureFolder
    split: str = ""  # its name, where the user gave one


@dataclass(slots=True)
class PictureRecord:
    """One sample to be: its picture files by name, and its questions as the shard will say them.

    `names` holds, of each picture of the sample, the names that its file may have.
    """

    image_id: int | str
    names: tuple[tuple[str, ...], ...]
    questions: list[dict[str, Any]] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For messages."""
        return " and ".join(names[0] for names in self.names)


@dataclass(frozen=True, slots=True)
class Annotations:
    """A question file, read: its pictures in the order in which they first occur."""

    pictures: Sequence[PictureRecord]
    split: str = ""  # where the files themselves say it
    # How many questions the files list, where that is not how many the samples have.
    num_listed: int | None = None
    notes: tuple[str, ...] = ()


class PictureRecords:
    """Gathers questions by picture."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self._found: dict[int | str, PictureRecord] = {}

    def at(self, image_id: int | str, *names: tuple[str, ...]) -> PictureRecord:
        """The record of a picture, or of two; new where the id is.

        Raises:
            UserError: the id is that of another picture already.
        """
        record = self._found.setdefault(image_id, PictureRecord(image_id, names))
        if record.names != names:
            both = f"{record.name}, {PictureRecord(image_id, names).name}"
            problem = f"two pictures under one id, {image_id!r}: {both}"
            fix = "give each picture an id of its own"
            raise UserError(problem, where=str(self.where), fix=fix)
        return record

    def all(self) -> list[PictureRecord]:
        return list(self._found.values())


def required(
    record: Any, name: str, kind: type[Value] | tuple[type[Value], ...], where: str
) -> Value:
    """record[name], or a UserError that says what is missing or of another type."""
    if not isinstance(record, dict):
        raise UserError(f"an entry is {record!r:.60}, not an object", where=where)
    if name not in record:
        there = ", ".join(f"`{key}`" for key in record)
        fix = f"there are {there}" if there else ""
        raise UserError(f"an entry has no `{name}`", where=where, fix=fix)
    value = record[name]
    if not isinstance(value, kind):
        raise UserError(f"`{name}` is {value!r:.60}, a {type(value).__name__}", where=where)
    return value


def question_opening(question: str) -> str:
    """The words with which a question opens, as its type where the data set names none."""
    words = " ".join(re.findall(r"\w+", question.lower())[:2])
    fitting = (opening for opening in _OPENINGS if f"{words} ".startswith(f"{opening} "))
    return next(fitting, "other")
