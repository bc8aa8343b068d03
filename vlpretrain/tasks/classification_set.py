"""Pictures with their classes, on demand, divided over ranks.

Shapes: N pictures of the set, B of one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlpretrain.tasks.units import Units, filled


@dataclass(frozen=True, slots=True)
class Pictures:
    """Some pictures of the set; a black one stands in for one that can't be read."""

    pixels_BCHW: Tensor  # uint8
    readable_B: Tensor  # bool
    label_B: Tensor  # int64


@dataclass(frozen=True)
class LabelledSet:
    """Pictures by row, and the class of each.

    Args:
        load: rows to their pixels, uint8 [B, C, H, W], and where they could be read [B].
        left_out: samples that are not in the set: they have no class, or none that is known.
    """

    load: Callable[[Sequence[int]], tuple[Tensor, Tensor]]
    label_N: Tensor  # int64
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.label_N)

    def take(self, rows: Sequence[int]) -> Pictures:
        pixels_BCHW, readable_B = self.load(rows)
        return Pictures(pixels_BCHW, readable_B, self.label_N[list(rows)])

    def shares(self, units: Units) -> Iterator[Pictures]:
        """This rank's pictures, a unit at a time; where it has none, that of the first row, so
        that all ranks call the same modules equally often."""
        for unit in units.own():
            yield self.take(unit or [0])


def gather_units(units: Units, parts: Sequence[Tensor]) -> Tensor:
    """The rows of all ranks' shares in order, [N, ...], on every rank."""
    return units.gather(torch.cat([filled(part, units.size) for part in parts]))
