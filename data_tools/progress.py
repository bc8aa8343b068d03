"""A line on the screen for long work; nothing where stderr is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
REDRAW_SECONDS = 0.3


def tracked(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Passes the items on, and shows how many went by, of how many, and how fast."""
    start = shown = time.monotonic()
    visible = sys.stderr.isatty()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if visible and now - shown >= REDRAW_SECONDS:
            _show(what, done, total, now - start)
            shown = now
    if visible and done:
        _show(what, done, total, time.monotonic() - start)
        sys.stderr.write("\n")


def say(line: str) -> None:
    """Prints a line of output over the progress line, not behind it."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
    print(line, flush=True)


def _show(what: str, done: int, total: int | None, seconds: float) -> None:
    of = f" of {total:,}" if total is not None else ""
    sys.stderr.write(f"\r{what}: {done:,}{of}, {done / max(seconds, 1e-9):,.4g}/s   ")
    sys.stderr.flush()
