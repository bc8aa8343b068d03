"""VizWiz-VQA: a list of {image, question, answers, answer_type, answerable}."""

from __future__ import annotations

from typing import Any

from data_tools.convert.annotations import (
    Annotations,
    PictureRecords,
    QuestionFiles,
    question_opening,
    required,
)
from data_tools.json_files import load_json
from vlpretrain.errors import UserError


def read_vizwiz(files: QuestionFiles) -> Annotations:
    """train.json, val.json or test.json; a question's id is its picture's name, as on the server.

    VizWiz names no question type: a question's opening words stand in.
    """
    where = str(files.questions)
    entries = load_json(files.questions)
    if not isinstance(entries, list):
        raise UserError("not a list of questions", where=where)
    records = PictureRecords(files.questions)
    for number, entry in enumerate(entries):
        place = f"{where}, entry {number}"
        image = required(entry, "image", str, place)
        questions = records.at(image, (image,)).questions
        question_id = f"{image}#{len(questions)}" if questions else image
        questions.append(_question(entry, question_id, place))
    return Annotations(records.all())


def _question(entry: dict[str, Any], question_id: str, where: str) -> dict[str, Any]:
    text = required(entry, "question", str, where)
    question = {
        "question": text,
        "answers": [required(item, "answer", str, where) for item in entry.get("answers", [])],
        "question_id": question_id,
        "question_type": question_opening(text),
    }
    kept = ("answer_type", "answerable")
    return question | {name: entry[name] for name in kept if name in entry}
