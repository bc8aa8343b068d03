"""Class folders of easy-VQA's pictures, by the colour and the shape that their questions give away.

    python tests/bench/easy_vqa_classes.py EASY_VQA OUT
    for split in train test; do
      python -m data_tools convert folders --images OUT/$split --out OUT/shards/$split
    done

Pictures whose questions do not give both away are left out and counted.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


def main(easy_vqa: Path, out: Path) -> None:
    for split in ("train", "test"):
        questions = json.loads((easy_vqa / split / "questions.json").read_text())
        told: dict[int, set[str]] = {}
        for question, answer, image in questions:
            told.setdefault(image, set()).update(told_by(question, answer))
        named = {image: name_of(words) for image, words in told.items()}
        for image, name in named.items():
            if name:
                folder = out / split / name
                folder.mkdir(parents=True, exist_ok=True)
                picture = easy_vqa / split / "images" / f"{image}.png"
                shutil.copyfile(picture, folder / picture.name)
        print(f"{split}: {sum(map(bool, named.values()))} of {len(named)} pictures")


def told_by(question: str, answer: str) -> set[str]:
    """Colours and shapes that the picture shows; "is no red shape present?" is answered "no" where
    there is one."""
    words = set(question.rstrip("?").split())
    if answer in ("yes", "no"):
        shown = (answer == "yes") != bool(words & {"not", "no"})
        words = words if shown else set()
    return {answer, *words} & {*SHAPES, *COLOURS}


def name_of(words: set[str]) -> str:
    """ "blue_circle"; empty where either is unknown."""
    colour, shape = words & set(COLOURS), words & set(SHAPES)
    return f"{min(colour)}_{min(shape)}" if len(colour) == len(shape) == 1 else ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
