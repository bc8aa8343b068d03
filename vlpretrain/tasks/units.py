"""Work divided over ranks so that results depend neither on their number nor on a batch size.

A floating-point result depends on the shape that it is computed in. So items are cut into units of
neighbours whose composition follows from the items' numbers alone, and ranks take units in turn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from vlpretrain import distributed


@dataclass(frozen=True, slots=True)
class Units:
    """Items 0 .. total - 1 in units of `size`; the last may be smaller."""

    total: int
    size: int

    @property
    def rounds(self) -> int:
        """Units that each rank works through, blank ones included; the same on every rank."""
        return math.ceil(math.ceil(self.total / self.size) / distributed.world_size())

    def own(self) -> list[range]:
        """This rank's units, one a round; an empty range where nothing is left for it."""
        return [self.unit(number, distributed.rank()) for number in range(self.rounds)]

    def unit(self, number: int, rank: int) -> range:
        """The items of a rank in a round."""
        first = (number * distributed.world_size() + rank) * self.size
        return range(min(first, self.total), min(first + self.size, self.total))

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all items in order, [total, ...], on every rank.

        Args:
            rows: of the own units, each filled up to `size` rows: [rounds * size, ...].
        """
        everyone = distributed.all_gather_rows(rows)
        shape = (distributed.world_size(), self.rounds, self.size)
        return everyone.unflatten(0, shape).transpose(0, 1).flatten(0, 2)[: self.total]


def filled(rows: Tensor, size: int) -> Tensor:
    """Rows [n, ...] with zeros behind them up to [size, ...]."""
    if len(rows) == size:
        return rows
    whole = rows.new_zeros(size, *rows.shape[1:])
    whole[: len(rows)] = rows
    return whole
