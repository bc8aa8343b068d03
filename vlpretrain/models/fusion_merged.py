"""Fusion by merged attention: one self-attention over the words and patches of each pair.

Dearer than cross-attention, as every pair carries its own copy of the picture's states.
Shapes: P pairs, J = T + N joint positions, K positions read, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlpretrain.models.layers import INIT_DEVIATION, Attention, FeedForward
from vlpretrain.models.layout import FusionPairs, Slots


class MergedLayer(nn.Module):
    """A pre-norm transformer layer over joint positions; only the asking rows go on."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, row_SD: Tensor, everywhere: Slots, valid_PJ: Tensor, ask_K: Tensor | None
    ) -> Tensor:
        """Rows [S, D] that fill the grid `everywhere`; those at `ask_K` (None: all) go on."""
        normed_SD = self.norm(row_SD)
        key_value_PJE = everywhere.pad(self.attention.key_value(normed_SD))
        asking = everywhere
        if ask_K is not None:
            asking = Slots(ask_K, everywhere.num_groups, everywhere.size)
            row_SD, normed_SD = row_SD.index_select(0, ask_K), normed_SD.index_select(0, ask_K)
        row_SD = row_SD + self.dropout(self.attention(normed_SD, asking, key_value_PJE, valid_PJ))
        return row_SD + self.dropout(self.feed(self.feed_norm(row_SD)))


class JointInput(nn.Module):
    """The words and patches of each pair in a row, each marked by its modality."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modality_embed_2D = nn.Parameter(torch.empty(2, width))
        nn.init.trunc_normal_(self.modality_embed_2D, std=INIT_DEVIATION)

    def forward(self, image_RND: Tensor, text_RTD: Tensor, pairs: FusionPairs) -> Tensor:
        """[P, T + N, D]."""
        text_PTD = (text_RTD + self.modality_embed_2D[0])[pairs.text_row_P]
        image_PND = (image_RND + self.modality_embed_2D[1])[pairs.image_row_P]
        return torch.cat([text_PTD, image_PND], dim=1)


def joint_valid(text_valid_RT: Tensor, pairs: FusionPairs, num_patches: int) -> Tensor:
    """True where a joint position may be seen, [P, T + N]."""
    text_valid_PT = text_valid_RT[pairs.text_row_P]
    image_valid_PN = text_valid_PT.new_ones(len(text_valid_PT), num_patches)
    return torch.cat([text_valid_PT, image_valid_PN], dim=1)
