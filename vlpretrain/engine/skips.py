"""Samples that could not be used, counted over ranks and written down. The loader has the limit."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist

from vlpretrain.distributed import world_size
from vlpretrain.engine.run_folder import RunFolder
from vlpretrain.types import Skip


class SkipCount:
    """Counts skipped samples; between log points each rank keeps its own."""

    def __init__(self, total: int) -> None:
        self.total = total  # over all ranks, since the run began
        self._own: list[Skip] = []

    def add(self, skips: Sequence[Skip]) -> None:
        self._own.extend(skips)

    def share(self, run: RunFolder, step: int) -> None:
        """Brings all ranks' skips together and writes them down. All ranks call."""
        skips = _gather(self._own)
        self._own = []
        self.total += len(skips)
        run.log_skips(step, skips)


def _gather(own: list[Skip]) -> list[Skip]:
    if world_size() == 1:
        return own
    parts: list[list[Skip]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, own)
    return [skip for part in parts for skip in part]
