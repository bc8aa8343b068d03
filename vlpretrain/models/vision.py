"""The image tower: any timm or open_clip backbone, with hidden patches.

Shapes: B pictures, C channels, H W pixels, G mask blocks, N patches (row-major), V visible
patches, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from vlpretrain.errors import UserError
from vlpretrain.models.attention import prefers_plain
from vlpretrain.models.backbones import Backbone, build_backbone
from vlpretrain.models.batch_norm import keep_float_statistics
from vlpretrain.models.blocks import compile_blocks
from vlpretrain.models.layers import INIT_DEVIATION
from vlpretrain.models.position import add_conditional_position
from vlpretrain.models.spec import VisionSpec
from vlpretrain.models.stem import add_conv_stem
from vlpretrain.models.weights import WeightReport


@dataclass(frozen=True, slots=True)
class VisionStates:
    """What the tower makes of pictures."""

    token_BND: Tensor  # prefix tokens (class, registers) first, then patches row by row
    pooled_BD: Tensor  # the class token, or the mean of the patches where there is none
    num_prefix: int
    # Which patches the tokens behind the prefix are, when only the visible ones were encoded.
    patch_index_BN: Tensor | None = None


class VisionTower(nn.Module):
    """Pixels to tokens. Hidden patches become a learned token (Xie et al. 2022), are left out (He
    et al. 2022), or, in a CNN, are painted in the mean colour. A convolutional stem sees them
    painted too: what it makes of a visible patch must not know its hidden neighbours.

    Attributes:
        width: of a token.
        stride: pixels of a token's side.
        grid: rows and columns of tokens.
        num_prefix: tokens before the first patch.
        supports_visible: whether hidden patches can be left out.
        image_mean, image_std: of the pixels that the backbone expects, per channel, 0 to 1.
        weight_report: what came of loading weights; None for random ones.
    """

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        backbone = build_backbone(spec)
        _check_sizes(spec, backbone)
        keep_float_statistics(backbone.module)
        self.spec = spec
        self.backbone: Any = backbone.module
        self.width = backbone.width
        self.stride = backbone.stride
        self.image_size = spec.image_size
        self.grid = (spec.image_size // backbone.stride,) * 2
        self.num_prefix = backbone.num_prefix
        self.supports_visible = bool(backbone.patch_drop) and spec.position == "own"
        self.image_mean, self.image_std = backbone.mean, backbone.std
        self.weight_report: WeightReport | None = backbone.report
        self._has_class_token = backbone.has_class_token
        self._switchable = _with_fused_attention(self.backbone)
        self._prepare_masking(backbone)
        if spec.stem == "conv":
            add_conv_stem(self.backbone, spec.weights)
        if spec.position == "conditional":
            self.position = add_conditional_position(
                self.backbone, self.width, self.grid, self.num_prefix
            )

    def _prepare_masking(self, backbone: Backbone) -> None:
        self._hidden_BN: Tensor | None = None  # of the call in progress, at patch resolution
        self.mask_token: nn.Parameter | None = None
        self._embed_grid = 0
        if backbone.patch_input is not None:
            self._embed_grid = self.image_size // backbone.patch_input.patch
            self._channel_dim = backbone.patch_input.channel_dim
            self.mask_token = nn.Parameter(torch.empty(backbone.patch_input.width))
            nn.init.trunc_normal_(self.mask_token, std=INIT_DEVIATION)
            backbone.patch_input.module.register_forward_hook(self._put_mask_token)
        self._keep = KeepVisible(backbone.num_prefix)
        if backbone.patch_drop:
            setattr(self.backbone, backbone.patch_drop, self._keep)

    def forward(
        self,
        pixels_BCHW: Tensor,
        block_hidden_BG: Tensor | None = None,
        visible_only: bool = False,
        num_visible: int = 0,
    ) -> VisionStates:
        """Tokens of uint8 RGB pictures.

        Args:
            block_hidden_BG: True where a block of the picture is hidden; G is a square number.
            visible_only: encode the visible patches alone; every picture must have equally many.
            num_visible: visible blocks of a picture, where the caller knows; 0: counted on the
                first picture, for which the host waits for a GPU.
        """
        dtype = next(self.backbone.parameters()).dtype
        picture_BCHW = self.normalise(pixels_BCHW).to(dtype)
        for module in self._switchable:
            module.fused_attn = not prefers_plain(self.training, pixels_BCHW.device)
        if block_hidden_BG is None:
            return self._states(self.backbone(picture_BCHW))
        if self.mask_token is None or self.spec.stem == "conv":
            picture_BCHW = self._paint_over(picture_BCHW, block_hidden_BG)
        if self.mask_token is None:
            return self._states(self.backbone(picture_BCHW))
        hidden_BN = expand_blocks(block_hidden_BG, self._embed_grid)
        if not visible_only:
            with self._hiding(hidden_BN):
                return self._states(self.backbone(picture_BCHW))
        index_BV = visible_index(hidden_BN, self._count_visible(block_hidden_BG, num_visible))
        with self._keep.only(index_BV):
            states = self._states(self.backbone(picture_BCHW))
        return replace(states, patch_index_BN=index_BV)

    def normalise(self, pixels_BCHW: Tensor) -> Tensor:
        """Pixels of 0 to 255 in the backbone's range, float32: what MIM's targets are made of."""
        scale, shift = _affine(self.image_mean, self.image_std, pixels_BCHW.device)
        return torch.addcmul(shift, pixels_BCHW.float(), scale)

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        self.backbone.set_grad_checkpointing(enabled)

    def compile_blocks(self) -> None:
        """torch.compile each block, in place; names of weights stay."""
        compile_blocks(self.backbone)

    def _states(self, output: Any) -> VisionStates:
        if isinstance(output, tuple):
            pooled_BD, patch_BND = output
            token_BND = torch.cat([pooled_BD.unsqueeze(1), patch_BND], dim=1)
        else:
            token_BND = to_tokens(output, self.width)
        if self._has_class_token:
            return VisionStates(token_BND, token_BND[:, 0], self.num_prefix)
        pooled_BD = token_BND[:, self.num_prefix :].mean(dim=1)
        return VisionStates(token_BND, pooled_BD, self.num_prefix)

    def _count_visible(self, block_hidden_BG: Tensor, num_visible: int) -> int:
        if not self.supports_visible:
            raise UserError(
                f"{type(self.backbone).__name__} with {self.spec.position} positions cannot leave "
                "patches out",
                where="objectives.mim.encode",
                fix="encode: mask_token, or a plain ViT with its own positions",
            )
        blocks = num_visible or int((~block_hidden_BG[0]).sum())
        return blocks * self._embed_grid**2 // block_hidden_BG.shape[1]

    def _paint_over(self, picture_BCHW: Tensor, block_hidden_BG: Tensor) -> Tensor:
        """The mean colour is zero after normalisation."""
        hidden_BHW = expand_blocks(block_hidden_BG, self.image_size)
        return picture_BCHW.masked_fill(hidden_BHW.view(-1, 1, *picture_BCHW.shape[2:]), 0)

    def _put_mask_token(self, module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor | None:
        """Forward hook of the patch embedding."""
        if self._hidden_BN is None or self.mask_token is None:
            return None
        channel_last = embedded.movedim(self._channel_dim, -1)
        hidden = self._hidden_BN.view(*channel_last.shape[:-1], 1)
        masked = torch.where(hidden, self.mask_token.to(embedded.dtype), channel_last)
        return masked.movedim(-1, self._channel_dim)

    @contextmanager
    def _hiding(self, hidden_BN: Tensor) -> Iterator[None]:
        self._hidden_BN = hidden_BN
        try:
            yield
        finally:
            self._hidden_BN = None


class KeepVisible(nn.Module):
    """Stands between the position embedding and the blocks of a ViT: lets through the prefix and
    the patches that were asked for, or everything."""

    def __init__(self, num_prefix: int) -> None:
        super().__init__()
        self.num_prefix = num_prefix
        self._index_BV: Tensor | None = None

    def forward(self, token_BND: Tensor) -> Tensor:
        if self._index_BV is None:
            return token_BND
        prefix, patch = token_BND[:, : self.num_prefix], token_BND[:, self.num_prefix :]
        index_BVD = self._index_BV.unsqueeze(-1).expand(-1, -1, patch.shape[-1])
        return torch.cat([prefix, patch.gather(1, index_BVD)], dim=1)

    @contextmanager
    def only(self, index_BV: Tensor) -> Iterator[None]:
        """Keeps the patches `index_BV` within."""
        self._index_BV = index_BV
        try:
            yield
        finally:
            self._index_BV = None


def expand_blocks(block_hidden_BG: Tensor, side: int) -> Tensor:
    """A square mask of G blocks at a resolution of side x side: [B, side * side]."""
    blocks = int(block_hidden_BG.shape[1] ** 0.5 + 0.5)
    if blocks**2 != block_hidden_BG.shape[1] or side % blocks:
        raise ValueError(f"{block_hidden_BG.shape[1]} mask blocks do not tile {side} x {side}")
    each = side // blocks
    hidden = block_hidden_BG.view(-1, blocks, 1, blocks, 1)
    return hidden.expand(-1, blocks, each, blocks, each).reshape(-1, side * side)


def visible_index(hidden_BN: Tensor, num_visible: int) -> Tensor:
    """The first `num_visible` patches that are not hidden, in order: [B, V]."""
    return hidden_BN.to(torch.uint8).argsort(dim=1, stable=True)[:, :num_visible]


def to_tokens(feature: Tensor, width: int) -> Tensor:
    """[B, N, D] of tokens, of a map [B, D, h, w] or of a map [B, h, w, D]."""
    if feature.ndim == 3:
        return feature
    if feature.shape[1] == width:
        return feature.flatten(2).transpose(1, 2)
    return feature.flatten(1, 2)


@lru_cache(maxsize=16)
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Scale and shift of a uint8 pixel. Kept here and not in a buffer: DeepSpeed would round a
    buffer to bf16."""
    with torch.inference_mode(False):
        mean_C11 = torch.tensor(mean, device=device).view(-1, 1, 1)
        std_C11 = torch.tensor(std, device=device).view(-1, 1, 1)
        return 1 / (255 * std_C11), -mean_C11 / std_C11


def _with_fused_attention(network: nn.Module) -> list[Any]:
    """timm's attention modules that would use `scaled_dot_product_attention`."""
    return [m for m in network.modules() if hasattr(m, "fused_attn") and m.fused_attn]


def _check_sizes(spec: VisionSpec, backbone: Backbone) -> None:
    size = spec.image_size
    patch = backbone.patch_input.patch if backbone.patch_input is not None else 1
    hides_blocks = spec.block != size  # the whole picture as one block: nothing is hidden
    if hides_blocks and spec.block % patch:
        raise UserError(
            f"a mask block of {spec.block} px is no multiple of the patch of {patch} px",
            where="objectives.mim.block",
            fix=f"a block of {(spec.block // patch + 1) * patch} px",
        )
    sides = {"patch": patch, "token": backbone.stride}
    if hides_blocks:
        sides["mask block"] = spec.block
    step = math.lcm(*sides.values())
    for name, side in sides.items():
        if size % side:
            raise UserError(
                f"a {name} of {side} px does not divide a picture of {size} px",
                where="data.image_size",
                fix=f"an image_size of {(size // step + 1) * step}, or any multiple of {step}",
            )
