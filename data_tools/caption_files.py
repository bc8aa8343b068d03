"""Opens a caption file of any known format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data_tools.caption_json import read_json, read_json_lines
from data_tools.caption_rows import CaptionOptions, CaptionRows
from data_tools.caption_tables import read_delimited, read_parquet
from vlpretrain.errors import UserError

FORMATS: dict[str, Callable[[Path, CaptionOptions], CaptionRows]] = {
    "csv": read_delimited,
    "tsv": read_delimited,
    "jsonl": read_json_lines,
    "parquet": read_parquet,
    "json": read_json,
    "coco": read_json,
    "karpathy": read_json,
}
EXTENSIONS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "csv",
    ".token": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".json": "json",
}


def open_captions(path: Path, options: CaptionOptions) -> CaptionRows:
    """The rows of a caption file, its format taken from `options` or the file's name."""
    if not path.is_file():
        raise UserError("no such caption file", where=str(path), fix="check --captions")
    name = options.format or EXTENSIONS.get(path.suffix.lower(), "")
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        problem = (
            f"unknown format {options.format!r}" if options.format else "format not recognised"
        )
        raise UserError(problem, where=str(path), fix=f"--format with one of {known}")
    opened = FORMATS[name](path, options)
    return CaptionRows(opened.rows, {"format": name} | opened.understood)
