"""GQA: {question id: {imageId, question, answer, types}}, pictures <imageId>.jpg."""

from __future__ import annotations

from typing import Any

from data_tools.convert.annotations import Annotations, PictureRecords, QuestionFiles, required
from data_tools.json_files import load_json
from vlpretrain.errors import UserError

_KEPT = ("imageId", "question", "answer", "types")


def read_gqa(files: QuestionFiles) -> Annotations:
    """{train,val,testdev}_balanced_questions.json; a test set's questions have no answer.

    The question's type is GQA's structural one (query, verify, logical, choose, compare); its
    answer is "open" to a query, else "binary", as GQA's evaluation counts.
    """
    where = str(files.questions)
    content = load_json(files.questions, keep=_without_programs)
    if not isinstance(content, dict) or not content:
        raise UserError("not an object of questions by their id", where=where)
    records = PictureRecords(files.questions)
    for question_id, asked in content.items():
        place = f"{where}, question {question_id}"
        image_id = required(asked, "imageId", str, place)
        record = records.at(image_id, (f"{image_id}.jpg",))
        record.questions.append(_question(asked, question_id, place))
    return Annotations(records.all())


def _without_programs(item: dict[str, Any]) -> dict[str, Any]:
    """What is used of a question; its functional program is most of the file."""
    return {name: item[name] for name in _KEPT if name in item} if "imageId" in item else item


def _question(asked: dict[str, Any], question_id: str, where: str) -> dict[str, Any]:
    answer = asked.get("answer")
    question: dict[str, Any] = {
        "question": required(asked, "question", str, where),
        "answers": [] if answer is None else [required(asked, "answer", str, where)],
        "question_id": question_id,
    }
    types = asked.get("types") or {}
    structural = types.get("structural")
    if structural:
        question["question_type"] = structural
        question["answer_type"] = "open" if structural == "query" else "binary"
    kinds = {"semantic": "semantic_type", "detailed": "detailed_type"}
    return question | {name: types[kind] for kind, name in kinds.items() if types.get(kind)}
