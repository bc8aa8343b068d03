"""The fusion's judgement of chosen pairs.

A picture meets all of its texts in few calls, so its keys and values are projected a few times
instead of once a pair; a pair that both directions ask for is judged once.

Shapes: P pairs, R distinct pictures or texts of a call, N image tokens, D width.
"""

from __future__ import annotations

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
from vlpretrain.tasks.units import filled

# Of one call of the fusion, and the step of length by which texts are brought together: an
# attention pads to the longest text of its call.
PAIRS, LENGTH_STEP = 512, 4


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
    plan = _Plan(pairs, texts.length_T, pictures)
    scores = []
    for rounds, tokens in pictures.stages():
        own = list(plan.calls(rounds, distributed.rank()))
        for call in own:
            scores.append(_judge(model, tokens[call.number - rounds.start], texts, call))
        for _ in range(plan.num_calls(rounds) - len(own)):
            _judge_blank(model, tokens[0], texts)
    own_scores = torch.cat(scores) if scores else torch.empty(0, device=texts.row_SD.device)
    return plan.gather(own_scores)


@dataclass(frozen=True, slots=True)
class _Call:
    """Pairs whose pictures are all of one unit."""

    number: int  # the round of that unit
    image_row_P: Tensor  # of the unit
    text_P: Tensor


class _Plan:
    """Which pairs are judged in which call of which rank: follows from the list of pairs alone."""

    def __init__(self, pairs: PairList, length_T: Tensor, pictures: PictureTokens) -> None:
        self.pairs, self.units = pairs, pictures.units
        bounds = torch.arange(0, self.units.total + self.units.size, self.units.size)
        self.first_pair_of_unit = torch.searchsorted(pairs.image_P, bounds).tolist()
        self.length_class_T = length_T // LENGTH_STEP

    def calls(self, rounds: range, rank: int) -> Iterator[_Call]:
        for number in rounds:
            for pair_P in self._pairs_of_unit(number, rank).split(PAIRS):
                if len(pair_P):
                    image_row_P = self.pairs.image_P[pair_P] % self.units.size
                    yield _Call(number, image_row_P, self.pairs.text_P[pair_P])

    def num_calls(self, rounds: range) -> int:
        """The most that a rank makes."""
        ranks = range(distributed.world_size())
        return max(
            sum(-(-len(self._pair_range(number, rank)) // PAIRS) for number in rounds)
            for rank in ranks
        )

    def gather(self, own_scores: Tensor) -> Tensor:
        """All pairs' scores in the list's order, from each rank's in the order of its calls."""
        everywhere = range(self.units.rounds)
        orders = [
            torch.cat([self._pairs_of_unit(number, rank) for number in everywhere])
            for rank in range(distributed.world_size())
        ]
        most = max(len(order) for order in orders)
        parts = distributed.all_gather_rows(filled(own_scores, most)).cpu().split(most)
        score_P = torch.full((len(self.pairs),), torch.nan)
        for order, part in zip(orders, parts, strict=True):
            score_P[order] = part[: len(order)]
        return score_P

    def _pair_range(self, number: int, rank: int) -> range:
        unit = number * distributed.world_size() + rank
        if unit + 1 >= len(self.first_pair_of_unit):
            return range(0)
        return range(self.first_pair_of_unit[unit], self.first_pair_of_unit[unit + 1])

    def _pairs_of_unit(self, number: int, rank: int) -> Tensor:
        """The unit's pairs, those with texts of about one length together."""
        pairs = self._pair_range(number, rank)
        pair_P = torch.arange(pairs.start, pairs.stop)
        return pair_P[self.length_class_T[self.pairs.text_P[pair_P]].sort(stable=True).indices]


def _judge(model: VLModel, token_UND: Tensor, texts: TextTable, call: _Call) -> Tensor:
    """Log-odds [P]. `token_UND` is the call's unit of pictures."""
    image_R, image_row_P = call.image_row_P.unique(return_inverse=True)
    text_R, text_row_P = call.text_P.unique(return_inverse=True)
    text_RTD, valid_RT = texts.padded(text_R)
    device = text_RTD.device
    pairs = FusionPairs(
        text_row_P=text_row_P.to(device),
        image_row_P=image_row_P.to(device),
        read_index_K=torch.arange(len(text_row_P), device=device) * text_RTD.shape[1],
    )
    fused_PD = model.fusion(token_UND[image_R].to(device), text_RTD, valid_RT, pairs)
    logit_P2 = model.itm_logits(fused_PD).float()
    return logit_P2[:, 1] - logit_P2[:, 0]


def _judge_blank(model: VLModel, token_UND: Tensor, texts: TextTable) -> None:
    """The same calls, for a rank that has nothing left while others go on."""
    nothing = torch.zeros(1, dtype=torch.int64)
    _judge(model, token_UND, texts, _Call(0, nothing, nothing))


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
