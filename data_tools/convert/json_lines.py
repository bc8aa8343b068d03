"""Questions of one's own: a JSON object a line."""

from __future__ import annotations

from typing import Any

from data_tools.convert.annotations import (
    Annotations,
    PictureRecord,
    PictureRecords,
    QuestionFiles,
    question_opening,
    required,
)
from data_tools.json_files import read_json_objects
from vlpretrain.errors import UserError

_OPTIONAL = ("answer_type", "group")


def read_json_lines(files: QuestionFiles) -> Annotations:
    """{image, question, answers | answer, question_id?, question_type?, label?}.

    `image` is a file name, or a list of two; `answers` is a list of texts, or {text: weight}. With
    an `image_id`, a picture is known by that; without a `question_id`, a question by its line.
    """
    records = PictureRecords(files.questions)
    for line, entry in read_json_objects(files.questions):
        where = f"{files.questions}:{line}"
        image = required(entry, "image", (str, list), where)
        images = [image] if isinstance(image, str) else image
        if not 1 <= len(images) <= 2 or not all(isinstance(name, str) for name in images):
            problem = f"`image` is {image!r:.80}"
            raise UserError(problem, where=where, fix="a file name, or a list of two")
        image_id = entry.get("image_id", " ".join(images))
        record = records.at(image_id, *((name,) for name in images))
        _label(record, entry, where)
        record.questions.append(_question(entry, line, where))
    return Annotations(records.all())


def _label(record: PictureRecord, entry: dict[str, Any], where: str) -> None:
    if entry.get("label") is None:
        return
    label = required(entry, "label", (str, int), where)
    if record.metadata.setdefault("label", label) != label:
        problem = f"{record.name} has two labels, {record.metadata['label']!r} and {label!r}"
        raise UserError(problem, where=where, fix="one class a picture")


def _question(entry: dict[str, Any], line: int, where: str) -> dict[str, Any]:
    text = required(entry, "question", str, where)
    question = {
        "question": text,
        "answers": _answers(entry, where),
        "question_id": entry.get("question_id", line),
        "question_type": entry.get("question_type") or question_opening(text),
    }
    return question | {name: entry[name] for name in _OPTIONAL if name in entry}


def _answers(entry: dict[str, Any], where: str) -> list[str] | dict[str, float]:
    answers = entry.get("answers")
    if answers is None:
        answer = entry.get("answer")
        answers = [] if answer is None else [answer]
    texts = list(answers) if isinstance(answers, list | dict) else [None]
    weights = list(answers.values()) if isinstance(answers, dict) else []
    if not all(isinstance(text, str) for text in texts) or not all(
        isinstance(weight, int | float) for weight in weights
    ):
        fix = "`answer`, a text; or `answers`, a list of texts or an object of weights"
        raise UserError(f"the answers are {answers!r:.80}", where=where, fix=fix)
    return answers
