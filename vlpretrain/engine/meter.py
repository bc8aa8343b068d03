"""Means of metrics between two log points, kept on the device until they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vlpretrain.distributed import all_mean


class Meter:
    """Sums of scalars by name; which names a step brings is the same on every rank."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Adds one value of each metric, without reading it."""
        for name, value in metrics.items():
            value = value.detach().to(self._device, torch.float32)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """Means over the values added since the last reading and over ranks. Waits for the device.

        All ranks call.
        """
        if not self._sums:
            return {}
        means = torch.stack([self._sums[name] / self._counts[name] for name in self._sums])
        figures = dict(zip(self._sums, all_mean(means).tolist(), strict=True))
        self._sums, self._counts = {}, {}
        return figures


def mean_of(micro_batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Means over the micro-batches of a step."""
    return {
        name: torch.stack([metrics[name].detach().float() for metrics in micro_batches]).mean()
        for name in micro_batches[0]
    }
