"""Masked-image modelling: SimMIM (Xie et al. 2022) and visible-only encoding (He et al. 2022).

Beside the project's legend: S pixels of a patch (stride x stride), patches row-major. Hidden
pixels are compared patch by patch: the values are those of a picture-shaped comparison.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from vlpretrain.objectives.base import (
    FusionRequest,
    Need,
    Objective,
    ObjectiveOutput,
    mean_count,
)
from vlpretrain.objectives.features import Features
from vlpretrain.objectives.visible_decoder import VisibleDecoder
from vlpretrain.types import Batch

COLOURS = 3
Distance = Literal["l1", "mse"]


class Target(NamedTuple):
    """What is predicted, and where it counts."""

    colour_BNCS: Tensor  # float32
    hidden_BN1S: Tensor  # bool, True where the tower did not see the pixel


class MaskedImageModelling(Objective):
    """Predicts hidden pixels, in the tower's normalised colours, from each patch's token.

    Args:
        width: of the tokens that the head reads: the tower's, or the decoder's.
        stride: pixels a side of the tower's output token.
        block: pixels a side of a mask block.
        decoder: of visible-only encoding; None: the tower saw mask tokens.
    """

    needs = frozenset({Need.HIDDEN_IMAGE})
    unit = "hidden_blocks"

    def __init__(
        self,
        width: int,
        stride: int,
        block: int,
        distance: Distance,
        normalise_target: bool,
        decoder: VisibleDecoder | None = None,
    ) -> None:
        super().__init__()
        self.head = nn.Linear(width, COLOURS * stride**2)
        self.decoder = decoder
        self.stride, self.block = stride, block
        self.distance: Distance = distance
        self.normalise_target = normalise_target

    def forward(
        self,
        features: Features,
        batch: Batch,
        request: FusionRequest | None,
        fused_KD: Tensor | None,
    ) -> ObjectiveOutput:
        assert features.hidden_image is not None
        states = features.hidden_image
        token_BND = (
            self.decoder(states) if self.decoder else states.token_BND[:, states.num_prefix :]
        )
        predicted_BNCS = self.head(token_BND).float().unflatten(-1, (COLOURS, self.stride**2))
        colour_BCHW = features.model.vision.normalise(batch.pixels_BCHW)
        target = Target(patchify(colour_BCHW, self.stride), self._hidden_pixels(batch))
        metrics = self._compare(predicted_BNCS, target, batch)
        picture_BCHW = None
        if features.evaluating:
            shown_BNCS = predicted_BNCS.detach()
            if self.normalise_target:
                shown_BNCS = denormalise_patches(shown_BNCS, target.colour_BNCS)
            picture_BCHW = unpatchify(shown_BNCS, self.stride, colour_BCHW.shape[-1])
        loss = metrics["loss/mim"]
        return ObjectiveOutput(
            loss, {name: value.detach() for name, value in metrics.items()}, None, picture_BCHW
        )

    def _compare(self, predicted_BNCS: Tensor, target: Target, batch: Batch) -> dict[str, Tensor]:
        """The loss, and what predicting each picture's mean visible colour would cost."""
        count = mean_count(batch, self.unit) * (COLOURS * self.block**2)
        guess_BNCS = mean_visible_colour(target)
        if self.normalise_target:
            # Every target patch has mean 0.
            target, guess_BNCS = normalise_patches(target), torch.zeros_like(guess_BNCS)
        return {
            "loss/mim": hidden_distance(predicted_BNCS, target, self.distance) / count,
            "mim/mean_colour": hidden_distance(guess_BNCS, target, self.distance) / count,
        }

    def _hidden_pixels(self, batch: Batch) -> Tensor:
        """bool [B, N, 1, S], True where the pixel is hidden and the picture is no blank."""
        size = batch.pixels_BCHW.shape[-1]
        hidden_BHW = hidden_pixels(batch.block_hidden_BG, self.block, size)
        hidden_BHW = hidden_BHW & batch.image_present_B[:, None, None]
        return patchify(hidden_BHW[:, None], self.stride)


def hidden_pixels(block_hidden_BG: Tensor, block: int, size: int) -> Tensor:
    """bool [B, H, W] of square pictures: each mask block spread over its pixels."""
    side = size // block
    grid_B11 = block_hidden_BG.view(-1, side, 1, side, 1)
    return grid_B11.expand(-1, side, block, side, block).reshape(-1, size, size)


def patchify(picture_BCHW: Tensor, stride: int) -> Tensor:
    """[B, C, H, W] to patches [B, N, C, S], row-major over the picture and within the patch."""
    rows, columns = picture_BCHW.shape[-2] // stride, picture_BCHW.shape[-1] // stride
    split = picture_BCHW.unflatten(-1, (columns, stride)).unflatten(-3, (rows, stride))
    return split.permute(0, 2, 4, 1, 3, 5).flatten(4).flatten(1, 2)


def unpatchify(patch_BNCS: Tensor, stride: int, size: int) -> Tensor:
    """The inverse of `patchify`, for square pictures of `size` pixels."""
    side = size // stride
    split = patch_BNCS.unflatten(-1, (stride, stride)).unflatten(1, (side, side))
    return split.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def normalise_patches(target: Target) -> Target:
    """Each patch and colour with mean 0 and deviation 1 (He et al. 2022, section 4.1)."""
    mean_BNC1, deviation_BNC1 = _patch_statistics(target.colour_BNCS)
    return target._replace(colour_BNCS=(target.colour_BNCS - mean_BNC1) / deviation_BNC1)


def denormalise_patches(patch_BNCS: Tensor, colour_BNCS: Tensor) -> Tensor:
    """Predictions of normalised targets in the colours of the patches they were made from."""
    mean_BNC1, deviation_BNC1 = _patch_statistics(colour_BNCS)
    return patch_BNCS * deviation_BNC1 + mean_BNC1


def _patch_statistics(colour_BNCS: Tensor) -> tuple[Tensor, Tensor]:
    variance_BNC1, mean_BNC1 = torch.var_mean(colour_BNCS, dim=-1, keepdim=True)
    return mean_BNC1, (variance_BNC1 + 1e-6).sqrt()


def mean_visible_colour(target: Target) -> Tensor:
    """Each picture's mean over the pixels that the tower saw: [B, 1, C, 1]."""
    visible_BN1S = (~target.hidden_BN1S).float()
    total_B1C1 = (target.colour_BNCS * visible_BN1S).sum((1, 3), keepdim=True)
    return total_B1C1 / visible_BN1S.sum((1, 3), keepdim=True).clamp(min=1)


def hidden_distance(predicted_BNCS: Tensor, target: Target, distance: Distance) -> Tensor:
    """Sum over hidden pixels and colours."""
    difference_BNCS = predicted_BNCS - target.colour_BNCS
    apart_BNCS = difference_BNCS.abs() if distance == "l1" else difference_BNCS.square()
    return (apart_BNCS * target.hidden_BN1S).sum()
