"""Any mapping of a file as tables of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlpretrain.report.charts import format_number
from vlpretrain.report.values import text

MAX_TABLE_ROWS, MAX_PLAIN_ROWS = 40, 100
# Characters of a cell.
MAX_CELL = 2000


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading; the first cell of a row says what it is."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_more: int = 0  # rows left out


def tables(value: object, title: str) -> tuple[Table, ...]:
    """Any mapping as tables: plain values together, each list of mappings and mapping apart."""
    if not isinstance(value, dict) or not value:
        return ()
    plain: list[tuple[str, ...]] = []
    nested: list[Table] = []
    for name, item in value.items():
        heading = str(name).replace("_", " ")
        if isinstance(item, dict):
            nested.extend(tables(item, heading))
        elif isinstance(item, list) and item and all(isinstance(row, dict) for row in item):
            nested.append(list_table(item, heading))
        else:
            plain.append((heading, plain_text(item)))
    num_more = max(0, len(plain) - MAX_PLAIN_ROWS)
    first = (Table(title, (), tuple(plain[:MAX_PLAIN_ROWS]), num_more),) if plain else ()
    return (*first, *nested)


def list_table(records: list[dict[str, Any]], title: str) -> Table:
    columns = tuple(dict.fromkeys(name for record in records for name in record))
    rows = tuple(
        tuple(plain_text(record.get(name, "")) for name in columns)
        for record in records[:MAX_TABLE_ROWS]
    )
    headings = tuple(str(name).replace("_", " ") for name in columns)
    return Table(title, headings, rows, len(records) - len(rows))


def plain_text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return format_number(value)
    if isinstance(value, list):
        return text(", ".join(plain_text(item) for item in value[:MAX_CELL]), MAX_CELL)
    return text(str(value), MAX_CELL)
