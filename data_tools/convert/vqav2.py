"""VQAv2: the questions in one file, the ten answers of each in another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from data_tools.assembly import named
from data_tools.convert.annotations import Annotations, PictureRecords, QuestionFiles, required
from data_tools.json_files import load_json
from vlpretrain.errors import UserError

# COCO's subsets, as picture names speak of them.
_SUBSETS = ("train2014", "val2014", "test2015")


def read_vqav2(files: QuestionFiles) -> Annotations:
    """v2_OpenEnded_mscoco_*_questions.json and v2_mscoco_*_annotations.json (none for a test set).

    All ten answers are kept as they are; the train split takes 1.6 GB of memory.
    """
    path, where = files.questions, str(files.questions)
    content = load_json(path)
    listed = required(content, "questions", list, where)
    subset = str(content.get("data_subtype", ""))
    answered = {} if files.annotations is None else _annotations(files.annotations, path, subset)
    records = PictureRecords(path)
    used = 0
    for asked in listed:
        image_id = required(asked, "image_id", int, where)
        question_id = required(asked, "question_id", int, where)
        annotation = answered.get(question_id, {})
        used += bool(annotation)
        if annotation and annotation.get("image_id", image_id) != image_id:
            raise _other_questions(
                files.annotations,
                f"question {question_id} is of picture {image_id}, and its answers are of "
                f"picture {annotation['image_id']}",
            )
        record = records.at(image_id, picture_names(image_id, subset))
        record.questions.append(_question(asked, question_id, annotation, where))
    if answered and not used:
        ids = [str(number) for number in answered]
        raise _other_questions(files.annotations, named("answers, and none is of these", ids))
    notes = [f"{len(answered) - used:,} answers to other questions left out"]
    split = re.sub(r"\d+$", "", subset)
    return Annotations(records.all(), split, notes=tuple(notes if used < len(answered) else ()))


def picture_names(image_id: int, subset: str) -> tuple[str, ...]:
    """COCO_train2014_000000000009.jpg, in a folder train2014 or not, or as since 2017."""
    subset = subset.replace("test-dev", "test")
    subsets = dict.fromkeys([*([subset] if subset else []), *_SUBSETS])
    names = [f"{name}/COCO_{name}_{image_id:012d}.jpg" for name in subsets]
    return (*names, f"{image_id:012d}.jpg")


def _annotations(path: Path, questions: Path, subset: str) -> dict[int, dict[str, Any]]:
    content = load_json(path, keep=_answer_alone)
    listed = required(content, "annotations", list, str(path))
    other = str(content.get("data_subtype", subset))
    if subset and other != subset:
        raise _other_questions(path, f"it is of {other}, and {questions.name} is of {subset}")
    found: dict[int, dict[str, Any]] = {}
    for annotation in listed:
        number = required(annotation, "question_id", int, str(path))
        if number in found:
            raise UserError(f"question_id {number} is answered twice", where=str(path))
        found[number] = annotation
    return found


def _answer_alone(item: dict[str, Any]) -> Any:
    """Of the object around each of the ten answers, the text: a sixth of the memory."""
    return item["answer"] if "answer" in item and "answer_id" in item else item


def _question(
    asked: dict[str, Any], question_id: int, annotation: dict[str, Any], where: str
) -> dict[str, Any]:
    answers = annotation.get("answers", [])
    if not all(isinstance(answer, str) for answer in answers):
        raise UserError(f"an answer to question {question_id} is no text", where=where)
    question = {
        "question": required(asked, "question", str, where),
        "answers": answers,
        "question_id": question_id,
    }
    kinds = ("question_type", "answer_type")
    return question | {kind: annotation[kind] for kind in kinds if kind in annotation}


def _other_questions(path: Path | None, problem: str) -> UserError:
    fix = "give the questions and the annotations of the same split"
    problem = f"the annotations belong to other questions: {problem}"
    return UserError(problem, where=str(path), fix=fix)
