"""Runs that began from one another, and names that tell them apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlpretrain.report.records import is_run, read_config

# How far above its export a run's folder is looked for.
EXPORT_DEPTH = 2


def find_chain(last: Path) -> list[Path]:
    """The runs that led to `last`, the first one first, by what each began from.

    It ends at the first run that began from none, or from one that is not there any more.
    """
    chain, seen = [last], {last.resolve()}
    while (before := run_before(chain[0])) is not None and before.resolve() not in seen:
        chain.insert(0, before)
        seen.add(before.resolve())
    return chain


def run_before(folder: Path) -> Path | None:
    """The run whose export a run began from, if that is still there."""
    init = began_from(folder)
    if not init:
        return None
    # The run may have been started elsewhere: its address is tried from here, then from each folder
    # above the run.
    roots = (Path(), *folder.resolve().parents)
    for export in (root / init for root in roots):
        for candidate in list(export.parents)[:EXPORT_DEPTH]:
            if is_run(candidate):
                return candidate
    return None


def began_from(folder: Path) -> str:
    """The export folder that a run's weights came from; empty: none."""
    init = read_config(folder).get("init")
    return init if isinstance(init, str) and "\0" not in init else ""


def distinct(folders: Sequence[Path]) -> list[Path]:
    """Each folder once, in the order given."""
    return list({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]


def short_names(folders: Sequence[Path]) -> list[str]:
    """Folder names; where two runs share theirs, with as much of the path as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        depth = 1
        while depth < len(own) and any(other[-depth:] == own[-depth:] for other in others):
            depth += 1
        names.append("/".join(own[-depth:]))
    return names
