"""Samples that could not be used: counted over ranks, written down, and too many of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist

from vlpretrain.distributed import world_size
from vlpretrain.engine.run_folder import RunFolder
from vlpretrain.errors import UserError
from vlpretrain.types import Skip

# The share is judged against no fewer samples than this, so that one early loss stops no run.
JUDGED_FROM = 1000


class SkipCount:
    """Counts skipped samples; between log points each rank keeps its own."""

    def __init__(self, max_share: float, samples_per_epoch: int, total: int) -> None:
        self.total = total  # over all ranks, since the run began
        self._max_share = max_share
        self._judged_from = min(JUDGED_FROM, samples_per_epoch)
        self._own: list[Skip] = []

    def add(self, skips: Sequence[Skip]) -> None:
        self._own.extend(skips)

    def share(self, run: RunFolder, step: int, samples_seen: int) -> None:
        """Brings all ranks' skips together and writes them down. All ranks call.

        Raises:
            UserError: more than the allowed share of the samples could not be used.
        """
        skips = _gather(self._own)
        self._own = []
        self.total += len(skips)
        run.log_skips(step, skips)
        if self.total > self._max_share * max(samples_seen, self._judged_from):
            raise UserError(
                f"{self.total} of {samples_seen} samples could not be used, more than "
                f"data.max_skipped = {self._max_share:g} allows"
                + (f"; the last: {_describe(skips[-1])}" if skips else ""),
                where=str(run.path / "skipped.jsonl"),
                fix="look there, mend the shards (data_tools validate), or raise data.max_skipped",
            )


def _describe(skip: Skip) -> str:
    return f"{skip.key} in {skip.shard}: {skip.reason}"


def _gather(own: list[Skip]) -> list[Skip]:
    if world_size() == 1:
        return own
    parts: list[list[Skip]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, own)
    return [skip for part in parts for skip in part]
