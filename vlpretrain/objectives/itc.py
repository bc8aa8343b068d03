"""Image-text contrast over the global batch (Radford et al. 2021).

L negatives and positives of the whole global batch; P parts (micro-batches x ranks).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlpretrain.objectives.base import FusionRequest, Need, Objective, ObjectiveOutput
from vlpretrain.objectives.features import Features
from vlpretrain.types import Batch, Embeddings, GlobalEmbeddings

# Radford et al. 2021, section 2.5: larger factors make training unstable.
MAX_SCALE = 100.0


class ImageTextContrast(Objective):
    """Symmetric InfoNCE, exact under accumulation and ranks.

    Gradients are averaged over P parts, each of which sees the embeddings of the others as
    constants. A part therefore takes P times the gradient of the global loss with respect to its
    own rows: the average is then the sum over all rows, which is the one big batch's gradient. The
    temperature is seen whole by every part, so its gradient must stay single: P times 1 / P of it.
    The value of the loss is the global one on every part.
    """

    needs = frozenset({Need.EMBEDDINGS})
    unit = "pairs"

    def forward(
        self,
        features: Features,
        batch: Batch,
        request: FusionRequest | None,
        fused_KD: Tensor | None,
    ) -> ObjectiveOutput:
        own, everyone = features.embeddings, features.everyone
        assert own is not None
        assert everyone is not None
        loss = part_loss(own, everyone, features.scale)
        metrics = {"loss/itc": loss.detach(), "itc/scale": features.scale.detach()}
        return ObjectiveOutput(loss, metrics)


def part_loss(own: Embeddings, everyone: GlobalEmbeddings, scale: Tensor) -> Tensor:
    """The global loss as one part sees it; see ImageTextContrast for its gradient."""
    parts = everyone.num_parts
    single_scale = scale / parts + scale.detach() * ((parts - 1) / parts)
    loss = contrastive_loss(put_in_place(own, everyone), single_scale)
    return loss + (parts - 1) * (loss - loss.detach())


def put_in_place(own: Embeddings, everyone: GlobalEmbeddings) -> GlobalEmbeddings:
    """The global batch with this part's rows live."""
    first, last = everyone.start, everyone.start + len(own.image_BE)

    def place(all_BE: Tensor, own_BE: Tensor) -> Tensor:
        return torch.cat([all_BE[:first], own_BE, all_BE[last:]])

    return replace(
        everyone,
        image_BE=place(everyone.image_BE, own.image_BE),
        text_BE=place(everyone.text_BE, own.text_BE),
    )


def contrastive_loss(rows: GlobalEmbeddings, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE in float32; row i of one side is the positive of row i of the other.

    Rows that are no pair take no part, and rows with the same picture or the same text are not
    each other's negatives. With pairs alone and all distinct it is CLIP's loss.
    """
    logits_BB = scale.float() * rows.image_BE.float() @ rows.text_BE.float().T
    logits_BB = logits_BB.masked_fill(~candidates(rows), -torch.inf)
    target_B = torch.arange(len(logits_BB), device=logits_BB.device)
    row_loss_B = F.cross_entropy(logits_BB, target_B, reduction="none")
    column_loss_B = F.cross_entropy(logits_BB.T, target_B, reduction="none")
    weight_B = rows.pair_valid_B.float()
    return ((row_loss_B + column_loss_B) * weight_B).sum() / (2 * weight_B.sum().clamp(min=1))


def candidates(rows: GlobalEmbeddings) -> Tensor:
    """bool [B, B], True where the column may stand in the row's softmax; the diagonal always."""
    valid_BB = rows.pair_valid_B[:, None] & rows.pair_valid_B
    same_BB = (rows.image_id_B[:, None] == rows.image_id_B) | (
        rows.text_id_B[:, None] == rows.text_id_B
    )
    own_BB = torch.eye(len(valid_BB), dtype=torch.bool, device=valid_BB.device)
    return (valid_BB & ~same_BB) | own_BB


class Temperature(nn.Module):
    """The learned factor of contrastive logits, never over MAX_SCALE (temperature 0.01)."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        # One element, not a scalar: DeepSpeed's broadcast of bf16 parameters can't view a scalar.
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / temperature)]))

    def forward(self) -> Tensor:
        ceiling = math.log(MAX_SCALE)
        return _Ceiling.apply(self.log_scale.float().squeeze(0), ceiling).exp()


def temperature_of(log_scale: Tensor) -> float:
    """The temperature of a saved `Temperature`."""
    return max(math.exp(-float(log_scale)), 1 / MAX_SCALE)


class _Ceiling(torch.autograd.Function):
    """clamp(max), but for a gradient that leads back down: clamp's own would hold it for ever."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, ceiling: float) -> Tensor:
        ctx.save_for_backward(value >= ceiling)
        return value.clamp(max=ceiling)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (at_ceiling,) = ctx.saved_tensors
        return grad.masked_fill(at_ceiling & (grad < 0), 0.0), None
