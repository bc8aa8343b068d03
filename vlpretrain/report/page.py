"""Puts a page together: one HTML file, readable offline, nothing in it fetched or run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vlpretrain.errors import UserError
from vlpretrain.report import bars, charts
from vlpretrain.report.chain import distinct
from vlpretrain.report.records import read_run
from vlpretrain.report.run_view import run_view
from vlpretrain.report.story import story_content

REPORT_NAME = "report.html"
STORY_NAME = "story.html"


def write_report(run_folder: Path, out: Path | None = None) -> Path:
    """Writes the page of a run from the files of that run's folder.

    Files that are missing leave their section out. The page holds its styles, curves and pictures;
    it opens without a network and runs no script.

    Args:
        run_folder: holds metrics.jsonl or evaluation/ and, where there, config.yaml,
            environment.json, summary.json.
        out: the page's file; by default `report.html` in the run's folder.

    Returns:
        The path of the report; a former one is replaced as a whole.

    Raises:
        UserError: the folder is not a run's.
    """
    run = read_run(Path(run_folder))
    view = run_view(run, run.folder.resolve().name)
    return _write("report.html.jinja", {"run": view}, out or run.folder / REPORT_NAME)


def write_story(run_folders: Sequence[Path], out: Path | None = None) -> Path:
    """Writes one page of several runs, in the order given: what came of what, and how good it is.

    Args:
        run_folders: each as for `write_report`; one that comes twice is shown once.
        out: the page's file; by default `story.html` in the last run's folder.

    Returns:
        The path of the page; a former one is replaced as a whole.

    Raises:
        UserError: there is no folder, or one is not a run's; it is named.
    """
    folders = distinct([Path(folder) for folder in run_folders])
    if not folders:
        raise UserError("a story needs a run", fix="name at least one run folder")
    content = story_content([read_run(folder) for folder in folders])
    return _write("story.html.jinja", content, out or folders[-1] / STORY_NAME)


def _write(template: str, content: dict[str, Any], target: Path) -> Path:
    """The whole file or, after a failure, the former one."""
    if target.is_dir():
        raise UserError("is a folder", where=str(target), fix="name a file, as story.html")
    page = _templates().get_template(template).render(content)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    # Half a surrogate pair, which JSON can spell, is no text that can be written.
    unfinished.write_text(page, encoding="utf-8", errors="replace")
    unfinished.replace(target)
    return target


@lru_cache(maxsize=1)
def _templates() -> Environment:
    # Everything is escaped, whatever the template's name.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(canvas=charts, bars=bars)
    return environment
