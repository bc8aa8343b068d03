"""An exponential moving average of the weights, kept where the fp32 masters are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vlpretrain.distributed import is_main
from vlpretrain.engine.masters import Masters


def decay_at(step: int, decay: float) -> float:
    """The decay after `step` steps: it grows towards `decay`, so that a young average follows."""
    return min(decay, (1 + step) / (10 + step))


class Average:
    """The average of each rank's own fragments; no communication while training."""

    def __init__(self, masters: Masters, decay: float) -> None:
        self._masters = masters
        self._decay = decay
        self._weights = [fragment.master for fragment in masters.fragments.values()]
        self._averages = [weight.clone() for weight in self._weights]

    def restart(self) -> None:
        """Sets the average to the present weights."""
        torch._foreach_copy_(self._averages, self._weights)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follows the weights after the optimiser's step numbered `step` from 0."""
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay_at(step, self._decay))

    def gather(self) -> Iterator[tuple[str, Tensor | None]]:
        """Whole averaged parameters by name, on the CPU of rank 0. All ranks call."""
        pairs = zip(self._masters.fragments.items(), self._averages, strict=True)
        for (name, fragment), average in pairs:
            yield name, self._masters.assemble(fragment, average)

    def scatter(self, source: Callable[[str], Tensor]) -> None:
        """Sets the average from whole tensors that rank 0 finds in `source`. All ranks call."""
        pairs = zip(self._masters.fragments.items(), self._averages, strict=True)
        for (name, fragment), average in pairs:
            whole_F = self._masters.distribute(fragment, source(name) if is_main() else None)
            average.copy_(whole_F[fragment.start : fragment.start + average.numel()])
