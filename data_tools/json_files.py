"""JSON files as they are downloaded: whole, or an object a line; a mistake in one has its line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_tools.encodings import detect_encoding
from vlpretrain.errors import UserError


def load_json(
    path: Path, encoding: str = "", keep: Callable[[dict[str, Any]], Any] | None = None
) -> Any:
    """The content of a JSON file, which is held in memory.

    Args:
        encoding: recognised, unless given.
        keep: what stands in for each object as soon as it is read, innermost first: the way to
            hold less of a large file.
    """
    try:
        return json.loads(path.read_text(encoding or detect_encoding(path)), object_hook=keep)
    except json.JSONDecodeError as error:
        fix = "a whole file? download it again; an object a line is another format: jsonl"
        problem = f"not JSON ({error.msg}, column {error.colno})"
        raise UserError(problem, where=f"{path}:{error.lineno}", fix=fix) from None


def read_json_objects(path: Path, encoding: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects of a file with one JSON object a line; blank lines are left out."""
    with path.open(encoding=encoding or detect_encoding(path)) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                problem = f"not JSON ({error.msg}, column {error.colno})"
                raise UserError(problem, where=f"{path}:{number}") from None
            if not isinstance(record, dict):
                raise UserError(f"not a JSON object: {line!r:.60}", where=f"{path}:{number}")
            yield number, record
