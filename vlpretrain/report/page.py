"""Puts a run's page together: one HTML file, readable offline, nothing in it fetched or run."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vlpretrain.report import charts, figures, pictures
from vlpretrain.report.records import RunRecord, read_run

REPORT_NAME = "report.html"
MAX_TABLE_ROWS = 40


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading; the first cell of a row says what it is."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_more: int = 0  # rows left out


def write_report(run_folder: Path) -> Path:
    """Writes `report.html` into a run folder from that folder's own files.

    Files that are missing leave their section out, with a note. The page holds its styles, curves
    and pictures; it opens without a network and runs no script.

    Args:
        run_folder: holds metrics.jsonl and, where there, config.yaml, environment.json,
            summary.json and evaluation/.

    Returns:
        The path of the report; a former one is replaced as a whole.

    Raises:
        UserError: the folder has no readable metrics.
    """
    run = read_run(Path(run_folder))
    page = _templates().get_template("report.html.jinja").render(page_content(run))
    target = run.folder / REPORT_NAME
    unfinished = run.folder / f".{REPORT_NAME}.{os.getpid()}"
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(target)
    return target


def page_content(run: RunRecord) -> dict[str, Any]:
    """What the template shows, by name."""
    levels = figures.chance_levels(run)
    evaluation_folder = run.folder / "evaluation"
    return {
        "name": run.folder.resolve().name,
        "facts": header_facts(run),
        "broken_lines": run.broken_lines,
        "tiles": figures.tiles(run, levels),
        "loss_rows": figures.loss_rows(run, levels),
        "loss_charts": figures.loss_charts(run, levels),
        "progress_charts": figures.progress_charts(run),
        "other_charts": figures.other_charts(run, levels),
        "reconstructions": pictures.reconstructions(run.evaluation, evaluation_folder),
        "pair_groups": pictures.pair_groups(run.evaluation, evaluation_folder),
        "data_tables": data_tables(run),
        "parameter_bars": parameter_bars(run.summary.get("parameters")),
        "environment_tables": tables(run.environment, "Environment"),
        "config_text": yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        if run.config
        else "",
        "continue_command": continue_command(run),
        "export_literal": repr(str(run.folder / "export")),
        "canvas": charts,
    }


def header_facts(run: RunRecord) -> tuple[tuple[str, str], ...]:
    """The run in a line: steps, samples, time, speed."""
    facts = []
    steps = [series.step[-1] for series in (*run.train.values(), *run.val.values())]
    facts.append(("steps", f"{max(steps):,.0f}"))
    if "samples_seen" in run.train:
        facts.append(("samples seen", f"{run.train['samples_seen'].value[-1]:,.0f}"))
    if "seconds" in run.train:
        facts.append(("training time", duration(float(run.train["seconds"].value[-1]))))
    speed = run.train.get("samples_per_second")
    rate = speed.last_finite(0.5) if speed else None
    if rate is not None:
        facts.append(("samples a second", charts.format_number(rate)))
    return tuple(facts)


def duration(seconds: float) -> str:
    if not seconds < 1e10:  # also NaN
        return "unknown"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def continue_command(run: RunRecord) -> str:
    """The command that started the run: as it stands, it goes on from the last checkpoint."""
    command = run.summary.get("command")
    if isinstance(command, list):
        return shlex.join(str(word) for word in command)
    config = shlex.quote(str(run.folder / "config.yaml"))
    return str(command) if command else f"./launch.sh pretrain {config}"


def data_tables(run: RunRecord) -> tuple[Table, ...]:
    """What the summary says of the data, and the samples that could not be used."""
    found = tables(run.summary.get("data"), "Data")
    if not run.skips.count:
        none = Table("Skipped samples", (), (("could not be used", "none"),))
        return (*found, none) if found else ()
    listed = _list_table(list(run.skips.first), f"Skipped samples: {run.skips.count:,}")
    return (*found, replace(listed, num_more=run.skips.count - len(listed.rows)))


def parameter_bars(parameters: object) -> tuple[tuple[str, str, float], ...]:
    """Part, count, and share of the largest part (for the bar's length)."""
    if not isinstance(parameters, dict):
        return ()
    counts = {str(k): v for k, v in parameters.items() if isinstance(v, int) and v >= 0}
    largest = max(counts.values(), default=0) or 1
    return tuple((name, f"{count:,}", count / largest) for name, count in counts.items())


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
            nested.append(_list_table(item, heading))
        else:
            plain.append((heading, _text(item)))
    first = (Table(title, (), tuple(plain)),) if plain else ()
    return (*first, *nested)


def _list_table(records: list[dict[str, Any]], title: str) -> Table:
    columns = tuple(dict.fromkeys(name for record in records for name in record))
    rows = tuple(
        tuple(_text(record.get(name, "")) for name in columns)
        for record in records[:MAX_TABLE_ROWS]
    )
    headings = tuple(str(name).replace("_", " ") for name in columns)
    return Table(title, headings, rows, len(records) - len(rows))


def _text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return charts.format_number(value)
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return str(value)


@lru_cache(maxsize=1)
def _templates() -> Environment:
    # Everything is escaped, whatever the template's name.
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
