"""easy-VQA: {train,test}/questions.json, a list of [question, answer, image id]."""

from __future__ import annotations

from data_tools.convert.annotations import Annotations, PictureRecords, QuestionFiles
from data_tools.json_files import load_json
from vlpretrain.errors import UserError


def read_easy_vqa(files: QuestionFiles) -> Annotations:
    """A question's id is its place in the list, from 0."""
    path = files.questions
    entries = load_json(path)
    if not isinstance(entries, list):
        raise UserError("not a list of [question, answer, image id]", where=str(path))
    records = PictureRecords(path)
    for number, entry in enumerate(entries):
        match entry:
            case [str(question), str(answer), int(image_id)]:
                asked = _question(question, answer) | {"question_id": number}
                records.at(image_id, (f"{image_id}.png",)).questions.append(asked)
            case _:
                problem = f"entry {number} is {entry!r:.80}, not [question, answer, image id]"
                raise UserError(problem, where=str(path))
    return Annotations(records.all())


def _question(question: str, answer: str) -> dict[str, object]:
    return {
        "question": question,
        "answers": [answer],
        "question_type": question_type(question),
        "answer_type": "yes/no" if answer in ("yes", "no") else "other",
    }


def question_type(question: str) -> str:
    """By the question's form: "shape", "colour", "yes/no", or "yes/no, negated"."""
    words = question.lower().rstrip("?").split()
    if words[:1] == ["what"]:
        return "colour" if "color" in words else "shape"
    return "yes/no, negated" if {"no", "not"} & set(words) else "yes/no"
