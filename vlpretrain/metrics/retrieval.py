"""Retrieval: how far up the right candidates stand.

Shapes: Q queries, C candidates.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

Relevant = Tensor | Sequence[Collection[int]]


def recall_at_k(similarity_QC: Tensor, relevant: Relevant, ks: Sequence[int]) -> dict[int, float]:
    """Share of the queries with a relevant candidate among the first k, for each k.

    Args:
        similarity_QC: higher is nearer.
        relevant: bool [Q, C], or for each query the indexes of its relevant candidates.

    Raises:
        ValueError: a query has no relevant candidate.
    """
    rank_Q = first_relevant_rank(similarity_QC, relevant)
    return {k: (rank_Q <= k).double().mean().item() for k in ks}


def median_rank(similarity_QC: Tensor, relevant: Relevant) -> float:
    """Median over queries of the best relevant candidate's rank; 1 is the best."""
    return first_relevant_rank(similarity_QC, relevant).double().quantile(0.5).item()


def first_relevant_rank(similarity_QC: Tensor, relevant: Relevant) -> Tensor:
    """int64 [Q]: the rank of each query's best relevant candidate, from 1.

    Ties are resolved against the model: a wrong candidate of equal similarity stands ahead, so a
    model that gives everything one score has recall 0 and not 1. A NaN of a relevant candidate
    counts as the lowest, of another as the highest similarity.
    """
    relevant_QC = _as_matrix(relevant, similarity_QC)
    if not bool(relevant_QC.any(dim=1).all()):
        raise ValueError("a query has no relevant candidate")
    missing_QC = similarity_QC.isnan()
    lowest, highest = -torch.inf, torch.inf
    right_QC = similarity_QC.masked_fill(~relevant_QC | missing_QC, lowest)
    best_Q1 = right_QC.amax(dim=1, keepdim=True)
    wrong_QC = similarity_QC.masked_fill(missing_QC, highest)
    ahead_QC = (wrong_QC >= best_Q1) & ~relevant_QC
    return ahead_QC.sum(dim=1) + 1


def chance_recall(relevant_QC: Tensor, ks: Sequence[int]) -> dict[int, float]:
    """What a random order of the candidates gives: the mean over queries of the exact share.

    With r of C candidates relevant, none is among the first k with probability
    (C-r choose k) / (C choose k).
    """
    num_candidates = relevant_QC.shape[1]
    relevant_Q = relevant_QC.sum(dim=1).double()
    result = {}
    for k in ks:
        if k >= num_candidates:
            result[k] = 1.0
            continue
        place_k = torch.arange(k, dtype=torch.float64, device=relevant_QC.device)
        left_Qk = (num_candidates - relevant_Q[:, None] - place_k).clamp(min=0)
        missed_Q = (left_Qk / (num_candidates - place_k)).prod(dim=1)
        result[k] = (1 - missed_Q).mean().item()
    return result


def _as_matrix(relevant: Relevant, similarity_QC: Tensor) -> Tensor:
    if isinstance(relevant, Tensor):
        return relevant.to(similarity_QC.device)
    relevant_QC = torch.zeros_like(similarity_QC, dtype=torch.bool)
    for query, indexes in enumerate(relevant):
        relevant_QC[query, list(indexes)] = True
    return relevant_QC
