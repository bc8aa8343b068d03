"""Conditional position encoding for a ViT (Chu et al. 2021, "Conditional Positional Encodings for
Vision Transformers", section 3.2).

Shapes: B pictures, N patches (row-major), D width, h w rows and columns of patches.
"""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vlpretrain.errors import UserError


class ConditionalPosition(nn.Module):
    """Adds to every patch a 3x3 depthwise convolution of its neighbourhood.

    A ViT must learn from data which patches are neighbours, and masked pictures are not filled in
    before it has. This tells it from the first step, at 9 weights a channel.
    """

    def __init__(self, width: int, grid: tuple[int, int], num_prefix: int) -> None:
        super().__init__()
        self.grid = grid
        self.num_prefix = num_prefix
        self.neighbours = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width)

    def forward(self, token_BND: Tensor) -> Tensor:
        map_BDhw = token_BND[:, self.num_prefix :].transpose(1, 2).unflatten(2, self.grid)
        added_BND = self.neighbours(map_BDhw.contiguous()).flatten(2).transpose(1, 2)
        return token_BND + nn.functional.pad(added_BND, (0, 0, self.num_prefix, 0))

    def behind(self, block: nn.Module, inputs: Any, output_BND: Tensor) -> Tensor:
        """Forward hook of a block."""
        return self(output_BND)


def add_conditional_position(
    backbone: Any, width: int, grid: tuple[int, int], num_prefix: int
) -> ConditionalPosition:
    """Puts the module behind the first block, as the paper finds best, and returns it.

    It stays outside the backbone, whose weights keep timm's names.

    Raises:
        UserError: the backbone is no plain timm ViT.
    """
    if not isinstance(backbone, VisionTransformer):
        raise UserError(
            f"{type(backbone).__name__} has no place for conditional positions",
            where="model.vision.position",
            fix="position: own, or a plain timm ViT as model.vision.name",
        )
    position = ConditionalPosition(width, grid, num_prefix)
    # A bound method, not a closure: a copy of the model then calls its own module.
    backbone.blocks[0].register_forward_hook(position.behind)
    return position
