"""Image-text matching with hard negatives (Li et al. 2021).

C candidates for a negative; three pairs a row: (image i, text i), (image i, another text) and
(another image, text i).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vlpretrain import distributed
from vlpretrain.objectives.base import (
    FusionRequest,
    JudgedPairs,
    Need,
    Objective,
    ObjectiveOutput,
    mean_count,
)
from vlpretrain.objectives.features import Features, pad_tokens
from vlpretrain.objectives.negatives import Choice, allowed_negatives, draw, keyed_uniform
from vlpretrain.types import Batch, GlobalEmbeddings

PAIRS_A_ROW = 3
# What always answering with the classes' shares (one match in three) costs.
CHANCE_LOSS = -(math.log(1 / 3) + 2 * math.log(2 / 3)) / 3


class Negatives(NamedTuple):
    """For each row another text and another image, as rows of the micro-step's candidates."""

    text: Choice
    image: Choice


class Table(NamedTuple):
    """What the chosen rows are read from: the rank's own rows and, with `global`, fetched ones."""

    text_RTD: Tensor
    text_valid_RT: Tensor
    extra_image_XND: Tensor | None
    text_row_B: Tensor  # of each row's negative text
    image_row_B: Tensor  # of each row's negative image


class ImageTextMatching(Objective):
    """Does the text belong to the picture? Negatives are drawn by contrastive similarity.

    A row without any candidate (all others are duplicates or no pairs) leaves its negatives out;
    the divisor stays three pairs a row, so `itm/accuracy` counts them as wrong.
    """

    needs = frozenset({Need.IMAGE, Need.TEXT, Need.EMBEDDINGS})
    unit = "pairs"

    def __init__(self, negatives: Literal["local", "global"], hard_from: float) -> None:
        super().__init__()
        self.over_ranks = negatives == "global"
        self.hard_from = hard_from  # share of the run; negatives are drawn evenly before

    def request(self, features: Features, batch: Batch) -> FusionRequest:
        negatives = self._draw_negatives(features, batch)
        over_ranks = self.over_ranks and features.ranks > 1
        table = (_fetched if over_ranks else _own)(features, batch, negatives)
        row_B = torch.arange(len(batch), device=batch.text_BT.device)
        pair_P = torch.arange(PAIRS_A_ROW * len(batch), device=row_B.device)
        return FusionRequest(
            text_RTD=table.text_RTD,
            text_valid_RT=table.text_valid_RT,
            text_row_P=torch.cat([row_B, table.text_row_B, row_B]),
            image_row_P=torch.cat([row_B, row_B, table.image_row_B]),
            read_pair_K=pair_P,
            read_token_K=torch.zeros_like(pair_P),
            extra_image_XND=table.extra_image_XND,
            pair_weight_P=_pair_weights(batch, negatives),
        )

    def _draw_negatives(self, features: Features, batch: Batch) -> Negatives:
        """Without gradient; evenly in an evaluation, whose accuracy is for random negatives."""
        everyone = features.everyone
        assert everyone is not None
        size = len(batch)
        step_start = everyone.start - features.rank * size
        own = _window(everyone, everyone.start, size)
        others = _window(everyone, step_start, features.ranks * size) if self.over_ranks else own
        first_candidate = 0 if self.over_ranks else features.rank * size
        row_B = torch.arange(size, device=own.image_BE.device) + features.rank * size
        column_C = torch.arange(len(others.image_BE), device=row_B.device) + first_candidate
        allowed_BC = own.pair_valid_B[:, None] & others.pair_valid_B & _differ(own, others)
        hard = batch.progress >= self.hard_from and not features.evaluating
        factor = features.scale.detach() if hard else 0.0
        return Negatives(
            text=draw(
                factor * own.image_BE @ others.text_BE.T,
                allowed_BC,
                keyed_uniform(2 * batch.seed, row_B, column_C),
            ),
            image=draw(
                factor * own.text_BE @ others.image_BE.T,
                allowed_BC,
                keyed_uniform(2 * batch.seed + 1, row_B, column_C),
            ),
        )

    def forward(
        self,
        features: Features,
        batch: Batch,
        request: FusionRequest | None,
        fused_KD: Tensor | None,
    ) -> ObjectiveOutput:
        assert request is not None
        assert request.pair_weight_P is not None
        assert fused_KD is not None
        logit_P2 = features.model.itm_logits(fused_KD).float()
        weight_P = request.pair_weight_P
        match_P = torch.arange(len(weight_P), device=weight_P.device) < len(batch)
        count = PAIRS_A_ROW * mean_count(batch, self.unit)
        loss_P = F.cross_entropy(logit_P2, match_P.long(), reduction="none")
        loss = (loss_P * weight_P).sum() / count
        right_P = logit_P2.detach().argmax(-1) == match_P
        metrics = {"loss/itm": loss.detach(), "itm/accuracy": (right_P * weight_P).sum() / count}
        judged = JudgedPairs(
            logit_P2.detach(), match_P, weight_P, request.text_row_P, request.image_row_P
        )
        return ObjectiveOutput(loss, metrics, judged)


def _window(rows: GlobalEmbeddings, first: int, size: int) -> GlobalEmbeddings:
    part = slice(first, first + size)
    return GlobalEmbeddings(
        rows.image_BE[part],
        rows.text_BE[part],
        rows.pair_valid_B[part],
        rows.image_id_B[part],
        rows.text_id_B[part],
        start=first,
        num_parts=rows.num_parts,
    )


def _differ(own: GlobalEmbeddings, others: GlobalEmbeddings) -> Tensor:
    return allowed_negatives(own.image_id_B, own.text_id_B, others.image_id_B, others.text_id_B)


def _pair_weights(batch: Batch, negatives: Negatives) -> Tensor:
    valid_B = batch.image_present_B & batch.text_present_B
    found = (valid_B, valid_B & negatives.text.found_B, valid_B & negatives.image.found_B)
    return torch.cat(found).float()


def _own(features: Features, batch: Batch, negatives: Negatives) -> Table:
    assert features.text is not None
    return Table(
        text_RTD=features.text.token_BTD,
        text_valid_RT=batch.text_valid_BT,
        extra_image_XND=None,
        text_row_B=negatives.text.index_B,
        image_row_B=negatives.image.index_B,
    )


def _fetched(features: Features, batch: Batch, negatives: Negatives) -> Table:
    """The chosen rows brought from their ranks, behind the rank's own.

    Ranks pad their texts to one length first. That length and the numbers of rows to send are host
    values: one small wait for the device each.
    """
    assert features.text is not None
    assert features.image is not None
    size = len(batch)
    num_tokens = distributed.max_over_ranks(batch.text_BT.shape[1], batch.text_BT.device)
    token_BTD = pad_tokens(features.text.token_BTD, num_tokens)
    valid_BT = pad_tokens(batch.text_valid_BT, num_tokens)
    text_plan, image_plan = distributed.plan_exchanges(
        [negatives.text.index_B, negatives.image.index_B], rows_a_rank=size
    )
    fetched_B = torch.arange(size, 2 * size, device=batch.text_BT.device)
    return Table(
        text_RTD=torch.cat([token_BTD, distributed.exchange_rows(token_BTD, text_plan)]),
        text_valid_RT=torch.cat([valid_BT, distributed.exchange_rows(valid_BT, text_plan)]),
        extra_image_XND=distributed.exchange_rows(features.image.token_BND, image_plan),
        text_row_B=fetched_B,
        image_row_B=fetched_B,
    )
