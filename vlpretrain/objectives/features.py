"""Everything that the objectives read, each tensor computed at most once a forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vlpretrain import distributed
from vlpretrain.models.fusion import FusionPairs
from vlpretrain.models.text import TextStates
from vlpretrain.models.vision import VisionStates
from vlpretrain.objectives.base import FusionRequest, Need
from vlpretrain.types import Batch, Embeddings, GlobalEmbeddings

if TYPE_CHECKING:
    from vlpretrain.models.vlmodel import VLModel


@dataclass(frozen=True, slots=True)
class Features:
    """States of one micro-batch. A part that no running objective needs is None.

    `image` is what ITM, ITC and MLM read: the masked picture's pass where it is shared, else the
    whole picture's. `hidden_image` is what MIM reads.
    """

    model: VLModel
    scale: Tensor  # scalar, the contrastive logits' factor
    image: VisionStates | None
    hidden_image: VisionStates | None
    text: TextStates | None
    masked_text: TextStates | None
    embeddings: Embeddings | None  # L2-normalised float32, with gradient
    everyone: GlobalEmbeddings | None
    evaluating: bool  # every rank holds the same samples, so ranks have no rows to exchange

    @property
    def ranks(self) -> int:
        return 1 if self.evaluating else distributed.world_size()

    @property
    def rank(self) -> int:
        return 0 if self.evaluating else distributed.rank()


@dataclass(frozen=True, slots=True)
class PassPlan:
    """Which tower passes a forward makes; the same on every rank."""

    image: bool  # a pass that is not MIM's
    hidden_image: bool
    text: bool
    masked_text: bool
    num_visible: int  # mask blocks; MIM's pass reads them alone, or all patches where 0

    @property
    def shares_hidden_image(self) -> bool:
        """True where MIM's pass is also what the other objectives read."""
        return self.hidden_image and not self.image


class TowerStates(NamedTuple):
    image: VisionStates | None
    hidden_image: VisionStates | None
    text: TextStates | None
    masked_text: TextStates | None


def plan_passes(needs: frozenset[Need], *, shared: bool, num_visible: int) -> PassPlan:
    """The passes for what the running objectives need."""
    hidden = Need.HIDDEN_IMAGE in needs
    reads_image = bool(needs & {Need.IMAGE, Need.EMBEDDINGS})
    return PassPlan(
        image=reads_image and not (hidden and shared),
        hidden_image=hidden,
        text=bool(needs & {Need.TEXT, Need.EMBEDDINGS}),
        masked_text=Need.MASKED_TEXT in needs,
        num_visible=num_visible,
    )


def run_towers(model: VLModel, batch: Batch, plan: PassPlan, *, prepass: bool) -> TowerStates:
    """At most two image passes and one text pass.

    The passes that embeddings need come first and have the same shapes in a contrastive prepass,
    which leaves out the rest: so the replay draws the same dropout.
    """
    image = hidden_image = None
    if plan.image:
        image = model.vision(batch.pixels_BCHW)
    if plan.shares_hidden_image:
        hidden_image = _hidden_pass(model, batch, plan)
    text, masked_text = _text_pass(model, batch, plan)
    if plan.hidden_image and plan.image and not prepass:
        hidden_image = _hidden_pass(model, batch, plan)
    return TowerStates(hidden_image if image is None else image, hidden_image, text, masked_text)


def _hidden_pass(model: VLModel, batch: Batch, plan: PassPlan) -> VisionStates:
    return model.vision(
        batch.pixels_BCHW,
        batch.block_hidden_BG,
        visible_only=plan.num_visible > 0,
        num_visible=plan.num_visible,
    )


def _text_pass(
    model: VLModel, batch: Batch, plan: PassPlan
) -> tuple[TextStates | None, TextStates | None]:
    """Clean and masked texts, one above the other in one call."""
    wanted = [batch.text_BT] * plan.text + [batch.masked_text_BT] * plan.masked_text
    if not wanted:
        return None, None
    valid_RT = batch.text_valid_BT.repeat(len(wanted), 1)
    states = model.text(torch.cat(wanted), valid_RT)
    token = iter(states.token_BTD.chunk(len(wanted)))
    pooled = iter(states.pooled_BD.chunk(len(wanted)))
    text = TextStates(next(token), next(pooled)) if plan.text else None
    masked_text = TextStates(next(token), next(pooled)) if plan.masked_text else None
    return text, masked_text


def embed(model: VLModel, batch: Batch, states: TowerStates) -> Embeddings:
    """Both sides in the shared space, L2-normalised in float32."""
    assert states.image is not None
    assert states.text is not None
    return Embeddings(
        image_BE=F.normalize(model.image_embeddings(states.image).float(), dim=-1),
        text_BE=F.normalize(model.text_embeddings(states.text).float(), dim=-1),
        pair_valid_B=batch.image_present_B & batch.text_present_B,
        image_id_B=batch.image_id_B,
        text_id_B=batch.text_id_B,
    )


def gather_embeddings(own: Embeddings, *, alone: bool) -> GlobalEmbeddings:
    """The micro-step's rows of all ranks, without gradient; `alone`: this rank's rows only."""

    def gather(rows: Tensor) -> Tensor:
        return rows.detach() if alone else distributed.all_gather_rows(rows)

    return GlobalEmbeddings(
        image_BE=gather(own.image_BE),
        text_BE=gather(own.text_BE),
        pair_valid_B=gather(own.pair_valid_B),
        image_id_B=gather(own.image_id_B),
        text_id_B=gather(own.text_id_B),
        start=0 if alone else distributed.rank() * len(own.image_BE),
        num_parts=1 if alone else distributed.world_size(),
    )


def fuse(model: VLModel, image: VisionStates, requests: list[FusionRequest]) -> list[Tensor]:
    """All requests in one fusion call; the states of each, [K, D]."""
    num_tokens = max(request.text_RTD.shape[1] for request in requests)
    tables = [pad_tokens(request.text_RTD, num_tokens) for request in requests]
    valids = [pad_tokens(request.text_valid_RT, num_tokens) for request in requests]
    extras = [r.extra_image_XND for r in requests if r.extra_image_XND is not None]
    fused_KD = model.fusion(
        torch.cat([image.token_BND, *extras]),
        torch.cat(tables),
        torch.cat(valids),
        _join_pairs(requests, len(image.token_BND), num_tokens),
    )
    return list(fused_KD.split([len(request.read_pair_K) for request in requests]))


def _join_pairs(requests: list[FusionRequest], num_images: int, num_tokens: int) -> FusionPairs:
    """The requests' pairs one after another, over their joint tables of texts and pictures."""
    text_rows, image_rows, reads = [], [], []
    first_text = first_pair = 0
    first_extra = num_images
    for request in requests:
        text_rows.append(request.text_row_P + first_text)
        is_extra_P = request.image_row_P >= num_images
        image_rows.append(request.image_row_P + is_extra_P * (first_extra - num_images))
        reads.append((request.read_pair_K + first_pair) * num_tokens + request.read_token_K)
        first_text += len(request.text_RTD)
        first_pair += len(request.text_row_P)
        first_extra += 0 if request.extra_image_XND is None else len(request.extra_image_XND)
    return FusionPairs(torch.cat(text_rows), torch.cat(image_rows), torch.cat(reads))


def pad_tokens(rows_RT: Tensor, num_tokens: int) -> Tensor:
    """Rows [R, T, ...] with zeros (False) up to `num_tokens` along T."""
    missing = num_tokens - rows_RT.shape[1]
    if missing == 0:
        return rows_RT
    shape = (rows_RT.shape[0], missing, *rows_RT.shape[2:])
    return torch.cat([rows_RT, rows_RT.new_zeros(shape)], dim=1)
