"""The order of candidates: by the dual encoder, then the first of them by the fusion.

Shapes: Q queries, U queries of a unit, C candidates, K candidates that are kept, R relevant ones,
E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlpretrain.metrics.retrieval import first_relevant_rank
from vlpretrain.padding import pad_ids
from vlpretrain.tasks.units import Units, filled

# Queries of a unit: their scores of 25,000 candidates lie in a CPU's cache.
QUERIES = 128

TIE_RULE = (
    "equal scores count against the model: a wrong candidate stands ahead of a right one; of "
    "equally similar ones the first listed are re-ranked; the rest stands behind, by similarity"
)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Every query's nearest candidates; on the CPU, the same on every rank."""

    rank_Q: Tensor  # int64, of the best relevant candidate, from 1
    candidate_QK: Tensor  # int64, nearest first
    similarity_QK: Tensor  # float32
    right_QK: Tensor  # bool, True where the candidate is relevant


def rank_candidates(
    query_QE: Tensor, candidate_CE: Tensor, relevant: Sequence[Sequence[int]], keep: int
) -> Ranking:
    """Exact search, divided over ranks.

    Args:
        relevant: for each query the numbers of its relevant candidates, at least one.
        keep: nearest candidates to keep, at most C.
    """
    units = Units(len(query_QE), QUERIES)
    keep = min(keep, len(candidate_CE))
    parts = [_rank_unit(query_QE, candidate_CE, relevant, unit, keep) for unit in units.own()]
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return Ranking(*(units.gather(column).cpu() for column in columns))


def _rank_unit(
    query_QE: Tensor,
    candidate_CE: Tensor,
    relevant: Sequence[Sequence[int]],
    unit: range,
    keep: int,
) -> tuple[Tensor, ...]:
    """The fields of Ranking for one unit, filled up."""
    # A rank that has no unit left goes over the first one: its rows are cut off when all gather.
    own = unit or range(min(QUERIES, len(query_QE)))
    similarity_UC = query_QE[own.start : own.stop] @ candidate_CE.T
    relevant_UR, _ = pad_ids(relevant[own.start : own.stop], -1)
    relevant_UR = relevant_UR.to(query_QE.device)
    candidate_UK = nearest(similarity_UC, keep)
    fields = (
        first_relevant_rank(similarity_UC, relevant[own.start : own.stop]),
        candidate_UK,
        similarity_UC.gather(1, candidate_UK),
        (candidate_UK[:, :, None] == relevant_UR[:, None, :]).any(dim=2),
    )
    return tuple(filled(field, QUERIES) for field in fields)


def nearest(similarity_QC: Tensor, k: int) -> Tensor:
    """int64 [Q, k]: the first k candidates by similarity, among equals by number."""
    value_QK, index_QK = similarity_QC.topk(k, dim=1)
    if k == 0:
        return index_QK
    level_Q = (similarity_QC >= value_QK[:, -1:]).sum(dim=1) > k
    if bool(level_Q.any()):  # more than have room are equal: topk's own choice is no rule
        order_QC = similarity_QC[level_Q].sort(dim=1, descending=True, stable=True).indices
        index_QK[level_Q] = order_QC[:, :k]
    index_QK = index_QK.sort(dim=1).values
    value_QK = similarity_QC.gather(1, index_QK)
    return index_QK.gather(1, value_QK.sort(dim=1, descending=True, stable=True).indices)


def reranked_rank(ranking: Ranking, score_QK: Tensor, k: int) -> Tensor:
    """int64 [Q]: ranks once the first k candidates stand in the order of `score_QK`.

    A query without a relevant candidate among them keeps its rank: they all stand ahead anyway.
    """
    if k == 0:
        return ranking.rank_Q
    score_Qk, right_Qk = score_QK[:, :k], ranking.right_QK[:, :k]
    best_Q1 = score_Qk.masked_fill(~right_Qk, -torch.inf).amax(dim=1, keepdim=True)
    ahead_Q = ((score_Qk >= best_Q1) & ~right_Qk).sum(dim=1)
    return torch.where(right_Qk.any(dim=1), ahead_Q + 1, ranking.rank_Q)
