"""How far something long has come: one line of a terminal that is overwritten, a line now and then
in a log. On stderr, as stdout is for answers."""

from __future__ import annotations

import sys
import time

TERMINAL_SECONDS, LOG_SECONDS = 0.2, 30.0


class Counter:
    """Counts to `total` and says so, with what is left of the time."""

    def __init__(self, total: int, what: str) -> None:
        self.total, self.what = total, what
        self.done = 0
        self._is_terminal = sys.stderr.isatty()
        self._began = self._said = time.perf_counter()

    def add(self, count: int) -> None:
        self.done += count
        now = time.perf_counter()
        if now - self._said >= (TERMINAL_SECONDS if self._is_terminal else LOG_SECONDS):
            self._said = now
            self._say(self._line(now))

    def note(self, line: str) -> None:
        """A line that stays."""
        self._wipe()
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        self._wipe()

    def _line(self, now: float) -> str:
        rate = self.done / (now - self._began)
        left = round((self.total - self.done) / rate)
        return (
            f"{self.done:,} of {self.total:,} {self.what}, {rate:.1f} a second, "
            f"{left // 60} min {left % 60:02d} s left"
        )

    def _say(self, line: str) -> None:
        if self._is_terminal:
            self._wipe()
            print(line, end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _wipe(self) -> None:
        if self._is_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
