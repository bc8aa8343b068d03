"""NLVR and NLVR2: a sentence is true or false of a picture, or of two.

Each becomes a question whose answer is "true" or "false". `group` is what consistency is taken
over: the examples of one sentence.
"""

from __future__ import annotations

from typing import Any

from data_tools.convert.annotations import Annotations, PictureRecords, QuestionFiles, required
from data_tools.json_files import read_json_objects
from vlpretrain.errors import UserError

ORDERS = 6  # NLVR draws the three boxes of a picture in every order
LABELS = ("true", "false")


def read_nlvr(files: QuestionFiles) -> Annotations:
    """NLVR: a sample for each order of the boxes whose picture is there, with the same sentence."""
    split, listed, records = "", 0, PictureRecords(files.questions)
    for line, example in read_json_objects(files.questions):
        listed += 1
        identifier = required(example, "identifier", str, f"{files.questions}:{line}")
        folder = str(example.get("directory", ""))
        split = split or files.split or files.questions.stem
        names = [f"{split}-{identifier}-{order}" for order in range(ORDERS)]
        candidates = {name: (f"{folder}/{name}.png", f"{name}.png") for name in names}
        there = [name for name in names if files.pictures.find(*candidates[name])]
        for name in there or names[:1]:
            group = f"{split}-{identifier.rpartition('-')[0]}"
            records.at(name, candidates[name]).questions.append(_sentence(example, name, group))
    return Annotations(records.all(), split=split, num_listed=listed)


def read_nlvr2(files: QuestionFiles) -> Annotations:
    """NLVR2: identifiers are SPLIT-SET-PAIR-SENTENCE, and a sample is a pair of pictures."""
    split, records = "", PictureRecords(files.questions)
    for line, example in read_json_objects(files.questions):
        where = f"{files.questions}:{line}"
        identifier = required(example, "identifier", str, where)
        parts = identifier.split("-")
        if len(parts) != 4:
            problem = f"identifier {identifier!r} is not SPLIT-SET-PAIR-SENTENCE"
            raise UserError(problem, where=where, fix="NLVR's own files are read as nlvr")
        split, pair, folder = parts[0], "-".join(parts[:3]), str(example.get("directory", ""))
        left, right = (_nlvr2_names(f"{pair}-img{side}.png", split, folder) for side in (0, 1))
        # As the official evaluation groups: the same set of pictures and the same sentence.
        group = f"{split}-{parts[1]}-{parts[3]}"
        records.at(pair, left, right).questions.append(_sentence(example, identifier, group))
    return Annotations(records.all(), split=split)


def _sentence(example: dict[str, Any], question_id: str, group: str) -> dict[str, Any]:
    where = f"example {question_id}"
    label = str(example.get("label", "")).lower()
    if label not in ("", *LABELS):
        raise UserError(f"the label is {label!r}", where=where, fix='"true" or "false"')
    return {
        "question": required(example, "sentence", str, where),
        "answers": [label] if label else [],
        "question_id": question_id,
        "question_type": "true/false",
        "answer_type": "true/false",
        "group": group,
    }


def _nlvr2_names(name: str, split: str, folder: str) -> tuple[str, ...]:
    """images/dev/NAME and images/train/DIRECTORY/NAME, or all in one folder."""
    folders = (f"{split}/{folder}/", f"{folder}/", f"{split}/") if folder else (f"{split}/",)
    return (name, *(f"{folder}{name}" for folder in folders))
