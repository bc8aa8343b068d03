"""Small pictures to convert, and what the shards made of them hold."""

import json
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from data_tools.assembly import WritingOptions
from data_tools.convert.formats import QUESTION_FORMATS
from data_tools.convert.questions import QuestionOptions, QuestionReport, convert_questions

STRICT = WritingOptions(strict=True)


def draw(path: Path, number: int = 0) -> Path:
    """A picture of its own for each number, in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (24, 16), (40 * number % 256, 90, 200))
    picture.paste((255, 255 - 30 * number % 256, 0), (number % 20, 2, number % 20 + 4, 12))
    picture.save(path)
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_lines(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def samples_of(folder: Path) -> list[dict[str, Any]]:
    """Every sample's JSON, in order, with its other members' bytes under "members"."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                content = tar.extractfile(member)
                assert content is not None
                samples.setdefault(f"{path.name}/{key}", {})[extension] = content.read()
    return [json.loads(parts.pop("json")) | {"members": parts} for parts in samples.values()]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def convert(
    name: str, folder: Path, questions: Path, out: str = "out", **options: Any
) -> QuestionReport:
    asked = QuestionOptions(questions, **{"images": folder / "images"} | options)
    return convert_questions(name, QUESTION_FORMATS[name].read, folder / out, asked)
