"""A log point's figures, as a line of metrics.jsonl and as a line on the screen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from vlpretrain.engine.state import Progress

Line = dict[str, float | int | str]


class Screen:
    """Keeps the clock. Evaluation and checkpoints don't count towards the speed."""

    def __init__(
        self,
        progress: Progress,
        total_steps: int,
        global_batch: int,
        chance: Mapping[str, float],
    ) -> None:
        self._total_steps = total_steps
        self._global_batch = global_batch
        self._chance = chance
        self._began = time.perf_counter() - progress.seconds
        self._last_time, self._last_step = time.perf_counter(), progress.step

    def seconds(self) -> float:
        """Time spent on the run, over all its starts."""
        return time.perf_counter() - self._began

    def samples_seen(self, step: int) -> int:
        return step * self._global_batch

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Time inside does not count towards the speed."""
        entered = time.perf_counter()
        yield
        self._last_time += time.perf_counter() - entered

    def line(self, step: int, figures: Mapping[str, float], rate: float) -> Line:
        """The line of metrics.jsonl after `step` steps; measures the speed since the last one."""
        now = time.perf_counter()
        samples = (step - self._last_step) * self._global_batch
        speed = samples / max(now - self._last_time, 1e-9)
        self._last_time, self._last_step = now, step
        return {
            "split": "train",
            "step": step,
            "samples_seen": self.samples_seen(step),
            **figures,
            "lr": rate,
            "samples_per_second": speed,
            "seconds": self.seconds(),
        }

    def text(self, line: Line) -> str:
        """One line for the screen, each figure with its chance level where there is one."""
        step, speed = int(line["step"]), float(line["samples_per_second"])
        left = (self._total_steps - step) * self._global_batch / speed
        shown = [name for name in line if name == "loss" or name.startswith("loss/")]
        parts = [f"step {step}/{self._total_steps} {100 * step // self._total_steps:3d}%"]
        parts += [self._figure(name, float(line[name])) for name in shown]
        parts += [f"lr {line['lr']:.2e}", f"{speed:.1f} samples/s", f"ETA {_duration(left)}"]
        return "  ".join(parts)

    def evaluation_text(self, step: int, figures: Mapping[str, float]) -> str:
        parts = [self._figure(name, value) for name, value in figures.items()]
        return "  ".join([f"val  {step}/{self._total_steps}", *parts])

    def _figure(self, name: str, value: float) -> str:
        chance = f" (chance {self._chance[name]:.3g})" if name in self._chance else ""
        return f"{name.removeprefix('loss/').removeprefix('val/')} {value:.4f}{chance}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
