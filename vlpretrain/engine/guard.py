"""What stops a run early, agreed over ranks: a non-finite loss, or a signal from outside.

One small all_reduce a step carries both. On a GPU its result is read one step late, so the host
never waits for the step that it has just sent.
"""

from __future__ import annotations

import json
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from vlpretrain.distributed import is_main, world_size
from vlpretrain.errors import UserError

KEYS_SHOWN = 8


class NonFiniteLoss(UserError):  # noqa: N818 (it reads as what it says)
    """A loss or gradient was NaN or infinite; the weights before it are in the last checkpoint."""


@dataclass(frozen=True, slots=True)
class _Watched:
    step: int
    flags: Tensor  # on the host: [non-finite, stop], over all ranks
    copied: torch.cuda.Event | None
    finite_S: Tensor  # of this rank's micro-batches, on the device
    keys: tuple[tuple[str, ...], ...]  # of this rank's micro-batches


class Stop:
    """A request to stop, set by SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.signal: int = 0  # its number, 0: none

    def request(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice
        self.signal = number


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Inside, Ctrl-C and SIGTERM only ask to stop; a second Ctrl-C stops at once."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop.request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Guard:
    """Watches every step; `report` is where the keys of a non-finite loss are written."""

    def __init__(self, device: torch.device, report: Path) -> None:
        self._device = device
        self._report = report
        self._watched: deque[_Watched] = deque()

    def watch(
        self,
        step: int,
        losses: Sequence[Tensor],
        keys: Sequence[tuple[str, ...]],
        gradient_finite: Tensor,
        stop: Stop,
    ) -> None:
        """Sends off this step's flags. All ranks call after every step."""
        finite_S = torch.stack([loss.detach().isfinite() for loss in losses])
        bad = ~(finite_S.all() & gradient_finite)
        asked = torch.full((), stop.signal != 0, device=self._device)
        flags = torch.stack([bad, asked]).to(torch.float32)
        if world_size() > 1:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        host, copied = self._to_host(flags)
        self._watched.append(_Watched(step, host, copied, finite_S, tuple(keys)))

    def stop_agreed(self, wait: bool = False) -> bool:
        """True when a rank was asked to stop. Reads what is due; with `wait`, all of it.

        Raises:
            NonFiniteLoss: on all ranks, at the same step.
        """
        agreed = False
        kept = 1 if self._device.type == "cuda" and not wait else 0
        while len(self._watched) > kept:
            watched = self._watched.popleft()
            if watched.copied is not None:
                watched.copied.synchronize()
            non_finite, asked = watched.flags.tolist()
            if non_finite:
                self._fail(watched)
            agreed |= bool(asked)
        return agreed

    def _to_host(self, flags: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        if self._device.type != "cuda":
            return flags, None
        host = torch.empty(flags.shape, pin_memory=True)
        host.copy_(flags, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        return host, copied

    def _fail(self, watched: _Watched) -> None:
        finite = watched.finite_S.tolist()
        micro_batches = [keys for keys, ok in zip(watched.keys, finite, strict=True) if not ok]
        in_loss = _gather([key for keys in micro_batches for key in keys])
        all_keys = in_loss or _gather([key for keys in watched.keys for key in keys])
        what = "the loss" if in_loss else "the gradient"
        if is_main():
            record = {"step": watched.step, "what": what, "keys": all_keys}
            self._report.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        shown = ", ".join(all_keys[:KEYS_SHOWN])
        raise NonFiniteLoss(
            f"{what} is not finite; the {len(all_keys)} samples concerned begin with {shown} "
            f"(all in {self._report})",
            where=f"step {watched.step}",
            fix="look at these samples, lower optim.lr or train in fp32; "
            "the run goes on from its last checkpoint",
        )


def _gather(keys: list[str]) -> list[str]:
    """Every rank's keys, in rank order, on every rank."""
    if world_size() == 1:
        return keys
    parts: list[list[str]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, keys)
    return [key for part in parts for key in part]
