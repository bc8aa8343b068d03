"""What becomes of pictures whose scores over classes are known.

Shapes: N pictures, B pictures of a call, C classes, K best of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from vlpretrain.metrics.classification import label_rank
from vlpretrain.tasks.classification_set import gather_units
from vlpretrain.tasks.units import Units

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Judged:
    """One row a picture."""

    readable_N: Tensor  # bool; a picture that can't be read counts for nothing
    rank_N: Tensor  # int64, of the right class, from 1; ties stand against the model
    best_NK: Tensor  # int64, the classes with the highest scores, the best first
    score_NK: Tensor

    @property
    def right_N(self) -> Tensor:
        return self.readable_N & (self.rank_N == 1)

    @property
    def wrong_N(self) -> Tensor:
        return self.readable_N & (self.rank_N > 1)


def judge(score_BC: Tensor, label_B: Tensor, readable_B: Tensor) -> Judged:
    best = score_BC.topk(min(SHOWN, score_BC.shape[1]), dim=1)
    return Judged(readable_B, label_rank(score_BC, label_B), best.indices, best.values)


def gather_judged(units: Units, parts: list[Judged]) -> Judged:
    """All pictures in order on the CPU of every rank; `parts` are those of this rank's units."""
    named = [item.name for item in fields(Judged)]
    columns = {name: [getattr(part, name) for part in parts] for name in named}
    return Judged(**{name: gather_units(units, rows).cpu() for name, rows in columns.items()})
