"""The pieces that the fusions are built of.

Shapes: S flat rows, G groups, N keys of a group, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from vlpretrain.models.attention import attend, merge_heads, prefers_plain, split_heads
from vlpretrain.models.layout import Slots

INIT_DEVIATION = 0.02


def init_weights(module: nn.Module) -> None:
    """Truncated normal matrices, zero biases; for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_DEVIATION)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Attention(nn.Module):
    """Multi-head attention whose keys and values the caller projects, once, by `key_value`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self._kept: list[Tensor] | None = None

    def forward(
        self,
        row_SD: Tensor,
        slots: Slots,
        key_value_GNE: Tensor,
        key_valid_GN: Tensor | None = None,
        seen_QN: Tensor | None = None,
    ) -> Tensor:
        """What each row reads from its group, [S, D].

        Args:
            row_SD: the rows that ask, standing at `slots` of the groups.
            key_value_GNE: `self.key_value` of what they look at; E = 2 * D.
            key_valid_GN: True where a key may be seen.
            seen_QN: True where a query, in whatever group, may see a key.
        """
        key_GND, value_GND = key_value_GNE.chunk(2, dim=-1)
        mixed_GHQd = attend(
            split_heads(slots.pad(self.query(row_SD)), self.heads),
            split_heads(key_GND, self.heads),
            split_heads(value_GND, self.heads),
            key_valid_GN,
            plain=prefers_plain(self.training, row_SD.device),
            seen_QN=seen_QN,
            kept=self._kept,
        )
        return self.out(slots.unpad(merge_heads(mixed_GHQd)))

    @contextmanager
    def keeping_weights(self) -> Iterator[list[Tensor]]:
        """Within, the list takes the weights [G, H, Q, N] of every call, part of its graph."""
        self._kept = []
        try:
            yield self._kept
        finally:
            self._kept = None


class FeedForward(nn.Sequential):
    """Linear, GELU, linear; four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
