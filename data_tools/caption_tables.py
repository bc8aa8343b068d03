"""Captions in tables: CSV, TSV and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.caption_rows import CaptionOptions, CaptionRow, CaptionRows
from data_tools.columns import (
    CAPTION_NAMES,
    IMAGE_NAMES,
    Columns,
    choose_columns,
    headerless_names,
    without_number,
)
from data_tools.encodings import check_encoding, detect_encoding
from vlpretrain.errors import UserError

DELIMITERS = {"tab": "\t", "comma": ",", "semicolon": ";", "bar": "|"}
# Longest cell in characters; a quote that is never closed would swallow the file otherwise.
LONGEST_CELL = 1 << 24


def read_delimited(path: Path, options: CaptionOptions) -> CaptionRows:
    """A CSV or TSV file, with a header or (as Flickr8k's) without."""
    encoding = _encoding(path, options)
    with path.open(encoding=encoding, newline="") as stream:
        first_line = stream.readline().rstrip("\r\n")
    if not first_line.strip():
        raise UserError("the first line is empty", where=str(path), fix="begin with a header line")
    delimiter = _delimiter(path, first_line, options.delimiter)
    first_row = _cells(next(csv.reader([first_line], delimiter=delimiter)))
    headerless = headerless_names(first_row)
    names = headerless or first_row
    columns = choose_columns(names, str(path), options.image_column, options.caption_column)
    understood = {
        "encoding": encoding,
        "delimiter": next((k for k, v in DELIMITERS.items() if v == delimiter), repr(delimiter)),
        "header": "none" if headerless else ", ".join(names),
        "columns": columns.shown,
    }
    cells = _delimited_cells(path, encoding, delimiter, has_header=headerless is None)
    return CaptionRows(_rows(cells, columns, delimiter), understood)


def read_parquet(path: Path, options: CaptionOptions) -> CaptionRows:
    """A Parquet file, a batch of rows at a time."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        fix = 'pip install "vlpretrain[parquet]"'
        raise UserError("reading Parquet needs pyarrow", where=str(path), fix=fix) from None
    try:
        table = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UserError(f"not a readable Parquet file ({error})", where=str(path)) from None
    names = list(table.schema_arrow.names)
    columns = choose_columns(names, str(path), options.image_column, options.caption_column)
    places = [
        place for place in (columns.image, columns.caption, columns.split) if place is not None
    ]
    wanted = [names[place] for place in places]

    def rows() -> Iterator[CaptionRow]:
        for batch in table.iter_batches(columns=wanted):
            for record in batch.to_pylist():
                yield from record_rows(record, columns, str(path))

    return CaptionRows(rows(), {"columns": columns.shown})


def record_rows(record: dict[str, Any], columns: Columns, where: str) -> Iterator[CaptionRow]:
    """The rows of one record, whose caption may be a text or a list of texts."""
    picture = record.get(columns.names[columns.image])
    value = record.get(columns.names[columns.caption])
    split = "" if columns.split is None else str(record.get(columns.names[columns.split]) or "")
    if isinstance(picture, dict | list) or isinstance(value, dict):
        problem = f"a column holds {picture if isinstance(picture, dict | list) else value!r:.80}"
        fix = "columns must hold a file name, and a text or a list of texts"
        raise UserError(problem, where=where, fix=fix)
    for caption in value if isinstance(value, list) else [value]:
        text = "" if caption is None else str(caption)
        yield CaptionRow(without_number(str(picture or "")), text, split)


def _encoding(path: Path, options: CaptionOptions) -> str:
    return check_encoding(path, options.encoding) if options.encoding else detect_encoding(path)


def _delimiter(path: Path, first_line: str, wanted: str) -> str:
    if wanted:
        delimiter = DELIMITERS.get(wanted, wanted.replace("\\t", "\t"))
        if len(delimiter) == 1:
            return delimiter
        fix = "one character, or one of " + ", ".join(DELIMITERS)
        raise UserError(f"{wanted!r} is no delimiter", where="--delimiter", fix=fix)
    if path.suffix.lower() == ".tsv":
        return "\t"
    best = max(DELIMITERS.values(), key=lambda delimiter: _promise(first_line, delimiter))
    if best not in first_line:
        fix = "give it with --delimiter; tab, comma, semicolon and bar are recognised"
        raise UserError(f"no delimiter found in {first_line!r:.120}", where=str(path), fix=fix)
    return best


def _promise(line: str, delimiter: str) -> tuple[bool, int, int]:
    """How well a delimiter cuts the first line: into a first file name, into known names, often."""
    cells = _cells(line.split(delimiter))
    known = sum(cell.lower() in IMAGE_NAMES + CAPTION_NAMES for cell in cells)
    names_itself = headerless_names(cells[:1]) is not None
    return names_itself, known, line.count(delimiter)


def _delimited_cells(
    path: Path, encoding: str, delimiter: str, *, has_header: bool
) -> Iterator[list[str]]:
    csv.field_size_limit(LONGEST_CELL)
    # Tables without a header (Flickr8k, Flickr30k) write quotes as they are.
    quoted = has_header or delimiter == ","
    with path.open(encoding=encoding, newline="") as stream:
        reader = csv.reader(
            stream, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        )
        try:
            for number, cells in enumerate(reader):
                if cells and not (has_header and number == 0):
                    yield cells
        except csv.Error as error:
            fix = "look for a quote that is never closed, or a zero byte"
            raise UserError(str(error), where=f"{path}:{reader.line_num}", fix=fix) from None


def _rows(table: Iterator[list[str]], columns: Columns, delimiter: str) -> Iterator[CaptionRow]:
    last = len(columns.names) - 1
    for found in table:
        cells = found + [""] * (last + 1 - len(found))
        if columns.caption == last:
            # A last column that was written without quotes keeps its delimiters.
            cells[last:] = [delimiter.join(cells[last:])]
        cells = _cells(cells)
        split = "" if columns.split is None else cells[columns.split]
        yield CaptionRow(without_number(cells[columns.image]), cells[columns.caption], split)


def _cells(row: list[str]) -> list[str]:
    return [cell.strip() for cell in row]
