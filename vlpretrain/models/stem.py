"""A convolutional stem for a ViT (Xiao et al. 2021, "Early Convolutions Help Transformers See
Better", section 4).

Shapes: B pictures, C channels, H W pixels, D width, h w rows and columns of patches.
"""

from __future__ import annotations

from typing import Any

from timm.layers import LayerNorm2d
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vlpretrain.errors import UserError


def conv_stem(channels: int, width: int, patch: int) -> nn.Sequential:
    """[B, C, H, W] to [B, D, h, w]: 3x3 convolutions of stride 2 whose widths double, and a 1x1.

    Normalised over channels at each place, not over the batch as in the paper: hidden and whole
    pictures then do not share statistics, and neither do ranks.

    Args:
        channels: of the picture.
        width: of a token.
        patch: pixels of a token's side; a power of two.
    """
    halvings = patch.bit_length() - 1
    layers: list[nn.Module] = []
    for halving in range(halvings):
        outputs = max(8, width >> (halvings - 1 - halving))
        layers += [
            nn.Conv2d(channels, outputs, kernel_size=3, stride=2, padding=1, bias=False),
            LayerNorm2d(outputs),
            nn.GELU(),
        ]
        channels = outputs
    return nn.Sequential(*layers, nn.Conv2d(channels, width, kernel_size=1))


def add_conv_stem(backbone: Any, weights: str) -> None:
    """Puts the stem in the place of a plain timm ViT's patch projection.

    Raises:
        UserError: the backbone is no such ViT, its patch is no power of two, or `weights` are
            asked for, which hold the projection that the stem takes the place of.
    """
    if not isinstance(backbone, VisionTransformer):
        raise UserError(
            f"{type(backbone).__name__} has a stem of its own",
            where="model.vision.stem",
            fix="stem: own, or a plain timm ViT as model.vision.name",
        )
    if weights:
        raise UserError(
            f"the weights {weights!r} know no convolutional stem",
            where="model.vision.stem",
            fix="stem: own, or random weights",
        )
    projection = backbone.patch_embed.proj
    patch = projection.stride[0]
    if patch < 2 or patch & (patch - 1):
        raise UserError(
            f"a convolutional stem halves the picture again and again, and a patch of {patch} px "
            "is no power of two",
            where="model.vision.patch",
            fix=f"patch: {1 << patch.bit_length()}, or model.vision.stem: own",
        )
    backbone.patch_embed.proj = conv_stem(projection.in_channels, projection.out_channels, patch)
