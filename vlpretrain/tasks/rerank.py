"""The fusion's judgement of chosen pairs.

A picture meets all of its texts in one call, or in a few, so its keys and values are projected once
in each layer and not once a pair; a pair that both directions ask for is judged once.

Shapes: I pictures, P pairs, U pictures of a unit, N image tokens, T text positions, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vlpretrain import distributed
from vlpretrain.errors import UserError
from vlpretrain.models.fusion import FusionPairs
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.retrieval_encode import PictureTokens, TextTable
from vlpretrain.tasks.retrieval_set import RetrievalSet
from vlpretrain.tasks.units import Units, filled

# The most of one call of the fusion. Texts of about one length stand together in a call, as
# attention pads to its longest.
PAIRS = 256


@dataclass(frozen=True, slots=True)
class PairList:
    """Distinct pairs in the order of picture, then text; on the CPU."""

    image_P: Tensor  # int64
    text_P: Tensor  # int64
    num_texts: int

    @staticmethod
    def of(image_P: Tensor, text_P: Tensor, num_texts: int) -> PairList:
        """The pairs that are given, each once."""
        name_P = (image_P * num_texts + text_P).unique()
        return PairList(name_P // num_texts, name_P % num_texts, num_texts)

    def __len__(self) -> int:
        return len(self.image_P)

    def find(self, image: Tensor, text: Tensor) -> Tensor:
        """Where pairs stand in the list."""
        name_P = self.image_P * self.num_texts + self.text_P
        return torch.searchsorted(name_P, image * self.num_texts + text)


@torch.no_grad()
def match_scores(
    model: VLModel, pictures: PictureTokens, texts: TextTable, pairs: PairList
) -> Tensor:
    """float32 [P] on the CPU, the same on every rank: how much likelier the matching head finds a
    match than none, in log-odds. These order pairs as the probability does, but do not saturate.

    The model must be in evaluation mode. All ranks call, and make as many calls of each module.
    """
    plan = _Plan(pairs, texts.length_T, pictures.units)
    scores = []
    for rounds, tokens in pictures.stages():
        own = list(plan.calls(rounds, distributed.rank()))
        for call in own:
            image_1ND = tokens[call.number - rounds.start][call.row : call.row + 1]
            scores.append(_judge(model, image_1ND, texts, call.text_P))
        for _ in range(plan.num_calls(rounds) - len(own)):
            # Others have more to do: the same modules, for nothing.
            _judge(model, tokens[0][:1], texts, torch.zeros(1, dtype=torch.int64))
    nothing = torch.empty(0, device=texts.row_SD.device)
    return plan.gather(torch.cat([nothing, *scores]))


@dataclass(frozen=True, slots=True)
class _Call:
    """One picture with texts."""

    number: int  # the round of the picture's unit
    row: int  # of the unit
    text_P: Tensor


class _Plan:
    """Which pairs are judged in which call of which rank: follows from the list of pairs alone."""

    def __init__(self, pairs: PairList, length_T: Tensor, units: Units) -> None:
        self.pairs, self.units = pairs, units
        bounds = torch.arange(units.total + 1)
        self.first_pair_of_image = torch.searchsorted(pairs.image_P, bounds).tolist()
        by_length_P = length_T[pairs.text_P].sort(stable=True).indices
        self.order_P = by_length_P[pairs.image_P[by_length_P].sort(stable=True).indices]

    def calls(self, rounds: range, rank: int) -> Iterator[_Call]:
        for number in rounds:
            for row, image in enumerate(self.units.unit(number, rank)):
                pair_P = self._pairs_of_image(image)
                for part_P in pair_P.tensor_split(max(1, self._num_calls(image))):
                    if len(part_P):
                        yield _Call(number, row, self.pairs.text_P[part_P])

    def num_calls(self, rounds: range) -> int:
        """The most that a rank makes."""
        return max(
            sum(self._num_calls(image) for n in rounds for image in self.units.unit(n, rank))
            for rank in range(distributed.world_size())
        )

    def gather(self, own_scores: Tensor) -> Tensor:
        """All pairs' scores in the list's order, from each rank's in the order of its calls."""
        orders = [self._pairs_of_rank(rank) for rank in range(distributed.world_size())]
        most = max(len(order) for order in orders)
        parts = distributed.all_gather_rows(filled(own_scores, most)).cpu().split(most)
        score_P = torch.full((len(self.pairs),), torch.nan)
        for order, part in zip(orders, parts, strict=True):
            score_P[order] = part[: len(order)]
        return score_P

    def _num_calls(self, image: int) -> int:
        first, last = self.first_pair_of_image[image : image + 2]
        return math.ceil((last - first) / PAIRS)

    def _pairs_of_image(self, image: int) -> Tensor:
        """With the shorter texts first."""
        return self.order_P[slice(*self.first_pair_of_image[image : image + 2])]

    def _pairs_of_rank(self, rank: int) -> Tensor:
        units = (self.units.unit(number, rank) for number in range(self.units.rounds))
        parts = [self._pairs_of_image(image) for unit in units for image in unit]
        return torch.cat([self.order_P[:0], *parts])


def _judge(model: VLModel, image_1ND: Tensor, texts: TextTable, text_P: Tensor) -> Tensor:
    """Log-odds [P] of one picture and each of the texts."""
    text_PTD, valid_PT = texts.padded(text_P)
    device = text_PTD.device
    row_P = torch.arange(len(text_P), device=device)
    pairs = FusionPairs(
        text_row_P=row_P,
        image_row_P=torch.zeros_like(row_P),
        read_index_K=row_P * text_PTD.shape[1],
    )
    fused_PD = model.fusion(image_1ND.to(device), text_PTD, valid_PT, pairs)
    logit_P2 = model.itm_logits(fused_PD).float()
    return logit_P2[:, 1] - logit_P2[:, 0]


def check_scores(score_P: Tensor, pairs: PairList, data: RetrievalSet) -> None:
    """Raises UserError where a pair's score is not finite."""
    bad = (~score_P.isfinite()).nonzero().squeeze(1)
    if len(bad):
        image, text = int(pairs.image_P[bad[0]]), int(pairs.text_P[bad[0]])
        raise UserError(
            f"the matching scores of {len(bad)} pairs are not finite, first that of picture "
            f"{data.keys[image]!r} with {data.texts[text]!r}",
            where="retrieval",
            fix="the weights hold NaN or overflow: an earlier checkpoint, or fp32 in place of fp16",
        )
