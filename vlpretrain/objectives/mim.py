"""Masked-image modelling: SimMIM (Xie et al. 2022) and visible-only encoding (He et al. 2022).

Beside the project's legend: S pixels of a patch (stride x stride), patches row-major, K patches
that are compared. The values are those of a picture-shaped comparison.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from vlpretrain.models.layout import Slots, packs_rows
from vlpretrain.models.vision import VisionTower
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
    """What is predicted of the compared patches, and where it counts."""

    index_K: Tensor  # which patches of the batch's B * N they are
    colour_KCS: Tensor  # float32, in the tower's normalised colours
    hidden_K1S: Tensor  # float32, 1 where the tower did not see the pixel of a picture, else 0
    mean_KC1: Tensor  # of the pixels that the tower saw of the patch's picture


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
        vision = features.model.vision
        target = target_of(batch, vision, self.block, everywhere=features.evaluating)
        row_KD = Slots(target.index_K, *token_BND.shape[:2]).unpad(token_BND)
        predicted_KCS = self.head(row_KD).float().unflatten(-1, (COLOURS, self.stride**2))
        metrics = self._compare(predicted_KCS, target, batch)
        picture_BCHW = None
        if features.evaluating:
            picture_BCHW = self._picture(predicted_KCS.detach(), target, batch)
        loss = metrics["loss/mim"]
        return ObjectiveOutput(
            loss, {name: value.detach() for name, value in metrics.items()}, None, picture_BCHW
        )

    def _compare(self, predicted_KCS: Tensor, target: Target, batch: Batch) -> dict[str, Tensor]:
        """The loss, and what predicting each picture's mean visible colour would cost."""
        count = mean_count(batch, self.unit) * (COLOURS * self.block**2)
        if self.normalise_target:
            target = normalise_patches(target)
        return {
            "loss/mim": hidden_distance(predicted_KCS, target, self.distance) / count,
            "mim/mean_colour": hidden_distance(target.mean_KC1, target, self.distance) / count,
        }

    def _picture(self, predicted_KCS: Tensor, target: Target, batch: Batch) -> Tensor:
        """What was predicted of all patches, as pictures [B, C, H, W]."""
        if self.normalise_target:
            predicted_KCS = denormalise_patches(predicted_KCS, target.colour_KCS)
        patch_BNCS = predicted_KCS.unflatten(0, (len(batch), -1))
        return unpatchify(patch_BNCS, self.stride, batch.pixels_BCHW.shape[-1])


def target_of(batch: Batch, vision: VisionTower, block: int, *, everywhere: bool) -> Target:
    """The target of the patches with hidden pixels; `everywhere`: of all patches.

    On a GPU of all as well, as the host would wait for the number of the others.

    Args:
        block: pixels a side of a mask block.
    """
    hidden_BHW = hidden_pixels(batch.block_hidden_BG, block, batch.pixels_BCHW.shape[-1])
    hidden_BHW = hidden_BHW & batch.image_present_B[:, None, None]
    hidden_BN1S = patchify(hidden_BHW[:, None], vision.stride)
    compared_BN = hidden_BN1S.any(-1).squeeze(-1)
    if everywhere or not packs_rows(compared_BN.device):
        index_K = torch.arange(compared_BN.numel(), device=compared_BN.device)
    else:
        index_K = compared_BN.flatten().nonzero().squeeze(1)
    pixels_KCS = patchify(batch.pixels_BCHW, vision.stride).flatten(0, 1)[index_K]
    mean_BC1 = mean_visible_colour(batch, vision, block)
    return Target(
        index_K,
        colour_KCS=vision.normalise(pixels_KCS.unsqueeze(2)).squeeze(2),
        hidden_K1S=hidden_BN1S.flatten(0, 1)[index_K].float(),
        mean_KC1=mean_BC1[index_K // compared_BN.shape[1]],
    )


def mean_visible_colour(batch: Batch, vision: VisionTower, block: int) -> Tensor:
    """Each picture's mean over the pixels that the tower saw, normalised: [B, C, 1]."""
    side = batch.pixels_BCHW.shape[-1] // block
    rows = batch.pixels_BCHW.unflatten(2, (side, block)).sum(3, dtype=torch.int32)
    colour_BCG = rows.unflatten(3, (side, block)).sum(-1).flatten(2) / block**2
    visible_B1G = (~batch.block_hidden_BG).float().unsqueeze(1)
    total_BC1 = (vision.normalise(colour_BCG.unsqueeze(-1)).squeeze(-1) * visible_B1G).sum(
        -1, keepdim=True
    )
    return total_BC1 / visible_B1G.sum(-1, keepdim=True).clamp(min=1)


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
    mean_KC1, deviation_KC1 = _patch_statistics(target.colour_KCS)
    return target._replace(
        colour_KCS=(target.colour_KCS - mean_KC1) / deviation_KC1,
        mean_KC1=torch.zeros_like(mean_KC1),
    )


def denormalise_patches(patch_KCS: Tensor, colour_KCS: Tensor) -> Tensor:
    """Predictions of normalised targets in the colours of the patches they were made from."""
    mean_KC1, deviation_KC1 = _patch_statistics(colour_KCS)
    return patch_KCS * deviation_KC1 + mean_KC1


def _patch_statistics(colour_KCS: Tensor) -> tuple[Tensor, Tensor]:
    variance_KC1, mean_KC1 = torch.var_mean(colour_KCS, dim=-1, keepdim=True)
    return mean_KC1, (variance_KC1 + 1e-6).sqrt()


def hidden_distance(predicted_KCS: Tensor, target: Target, distance: Distance) -> Tensor:
    """Sum over hidden pixels and colours."""
    difference_KCS = predicted_KCS - target.colour_KCS
    apart_KCS = difference_KCS.abs() if distance == "l1" else difference_KCS.square()
    return (apart_KCS * target.hidden_K1S).sum()
