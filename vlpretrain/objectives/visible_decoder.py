"""The light decoder of visible-only encoding, from the paper (He et al. 2022, section 3).

Beside the project's legend (types.py): V visible patches.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vlpretrain.models.attention import prefers_plain
from vlpretrain.models.vision import VisionStates


class VisibleDecoder(nn.Module):
    """Puts visible tokens in their places and a learned token in the others, and mixes them.

    Args:
        encoder_width: of the tower's tokens.
        width, depth, heads: of the decoder's blocks.
        grid: rows and columns of the picture's patches.
    """

    def __init__(
        self, encoder_width: int, width: int, depth: int, heads: int, grid: tuple[int, int]
    ) -> None:
        super().__init__()
        self.width, self.grid = width, grid
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
        self._attentions: list[Any] = [block.attn for block in self.blocks]
        self.norm = nn.LayerNorm(width)

    def forward(self, states: VisionStates) -> Tensor:
        """Tokens of all patches, [B, rows * columns, width]."""
        assert states.patch_index_BN is not None
        token_BND = self.embed(states.token_BND)
        prefix = states.num_prefix
        patch_BND = self._place(token_BND[:, prefix:], states.patch_index_BN)
        patch_BND = patch_BND + self._positions(patch_BND)
        token_BND = torch.cat([token_BND[:, :prefix], patch_BND], dim=1)
        for attention in self._attentions:
            attention.fused_attn = not prefers_plain(self.training, token_BND.device)
        for block in self.blocks:
            token_BND = block(token_BND)
        return self.norm(token_BND)[:, prefix:]

    def _place(self, visible_BVD: Tensor, patch_index_BV: Tensor) -> Tensor:
        num_patches = self.grid[0] * self.grid[1]
        empty_BND = self.mask_token.to(visible_BVD.dtype).expand(len(visible_BVD), num_patches, -1)
        index_BVD = patch_index_BV[..., None].expand(-1, -1, self.width)
        return empty_BND.scatter(1, index_BVD, visible_BVD)

    def _positions(self, like: Tensor) -> Tensor:
        """Fixed sine-cosine positions [N, width]; made anew, as a buffer would be cast to bf16."""
        position_ND = build_sincos2d_pos_embed(list(self.grid), self.width, device=like.device)
        return position_ND.to(like.dtype)
