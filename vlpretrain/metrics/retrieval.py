"""Retrieval: how far up the right candidates stand.

The rule for ties: a wrong candidate of equal similarity stands ahead of a right one, so a model
that gives everything one score has recall 0 and not 1.

Shapes: Q queries, C candidates, E embedding width, R relevant (query, candidate) pairs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 256  # queries that are compared with all candidates at once
_MOST_SCORES = 1 << 23  # looked at at once


@dataclass(frozen=True, slots=True)
class SameGroup:
    """What belongs together, said by a number on both sides: captions of one picture and it."""

    query_Q: Tensor  # integers
    candidate_C: Tensor  # integers


# A bool matrix [Q, C]; or for each query the indexes of its relevant candidates; or groups.
Relevant = Tensor | Sequence[Collection[int]] | SameGroup


def recall_at_k(similarity_QC: Tensor, relevant: Relevant, ks: Sequence[int]) -> dict[int, float]:
    """Share of the queries with a relevant candidate among the first k, for each k.

    Args:
        similarity_QC: higher is nearer.

    Raises:
        ValueError: a query has no relevant candidate, or one that isn't there.
    """
    return recall_of_ranks(first_relevant_rank(similarity_QC, relevant), ks)


def recall_from_embeddings(
    query_QE: Tensor,
    candidate_CE: Tensor,
    relevant: Relevant,
    ks: Sequence[int],
    chunk: int = CHUNK,
) -> dict[int, float]:
    """`recall_at_k` of the dot products, never more than `chunk` rows of them at once."""
    return recall_of_ranks(rank_from_embeddings(query_QE, candidate_CE, relevant, chunk), ks)


def median_rank(similarity_QC: Tensor, relevant: Relevant) -> float:
    """Median over queries of the best relevant candidate's rank; 1 is the best."""
    return median_of_ranks(first_relevant_rank(similarity_QC, relevant))


def recall_of_ranks(rank_Q: Tensor, ks: Sequence[int]) -> dict[int, float]:
    return {k: (rank_Q <= k).double().mean().item() for k in ks}


def median_of_ranks(rank_Q: Tensor) -> float:
    return rank_Q.double().quantile(0.5).item()


def first_relevant_rank(similarity_QC: Tensor, relevant: Relevant) -> Tensor:
    """int64 [Q]: the rank of each query's best relevant candidate, from 1.

    Ties are resolved against the model. A NaN of a relevant candidate counts as the lowest, of
    another as the highest similarity.
    """
    similarity_QC = torch.as_tensor(similarity_QC)
    num_queries, num_candidates = similarity_QC.shape
    pairs = _pairs(relevant, num_queries, num_candidates, similarity_QC.device)
    rows = max(1, _MOST_SCORES // max(1, num_candidates))
    parts = [
        _ranks(similarity_QC[first : first + rows], pairs.between(first, first + rows))
        for first in range(0, num_queries, rows)
    ]
    return torch.cat(parts)


@torch.no_grad()
def rank_from_embeddings(
    query_QE: Tensor, candidate_CE: Tensor, relevant: Relevant, chunk: int = CHUNK
) -> Tensor:
    """`first_relevant_rank` of the dot products in float32 (normalise before, for cosines).

    Every product has `chunk` rows, the last one filled up with zeros: a library multiplies one row
    in another order than many, so that a query's similarities would depend on who stands beside it.
    """
    query_QE, candidate_EC = query_QE.float(), candidate_CE.float().T
    pairs = _pairs(relevant, len(query_QE), len(candidate_CE), query_QE.device)
    parts = []
    for first in range(0, len(query_QE), chunk):
        part_BE = query_QE[first : first + chunk]
        filled_BE = torch.nn.functional.pad(part_BE, (0, 0, 0, chunk - len(part_BE)))
        with torch.autocast(query_QE.device.type, enabled=False):
            similarity_BC = (filled_BE @ candidate_EC)[: len(part_BE)]
        parts.append(_ranks(similarity_BC, pairs.between(first, first + chunk)))
    return torch.cat(parts)


def chance_recall(
    relevant: Relevant, ks: Sequence[int], num_candidates: int | None = None
) -> dict[int, float]:
    """What a random order of the candidates gives: the mean over queries of the exact share.

    With r of C candidates relevant, none is among the first k with probability
    (C-r choose k) / (C choose k).

    Args:
        num_candidates: needed where the relevant ones are given by their indexes.
    """
    num_queries, num_candidates = _shape(relevant, num_candidates)
    query_R = _pairs(relevant, num_queries, num_candidates, torch.device("cpu")).query_R
    # Queries with equally many relevant ones have one chance: r of them, each so often.
    num_relevant_r, times_r = query_R.bincount(minlength=num_queries).unique(return_counts=True)
    result = {}
    for k in ks:
        if k >= num_candidates:
            result[k] = 1.0
            continue
        place_k = torch.arange(k, dtype=torch.float64)
        left_rk = (num_candidates - num_relevant_r[:, None] - place_k).clamp(min=0)
        missed_r = (left_rk / (num_candidates - place_k)).prod(dim=1)
        result[k] = 1 - ((missed_r * times_r).sum() / num_queries).item()
    return result


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Which candidate is relevant to which query; each pair once, in the order of the queries."""

    query_R: Tensor
    candidate_R: Tensor

    def between(self, first: int, last: int) -> _Pairs:
        """The pairs of the queries first .. last - 1, which are counted from 0 again."""
        bound = torch.tensor([first, last], device=self.query_R.device)
        start, stop = torch.searchsorted(self.query_R, bound).tolist()
        return _Pairs(self.query_R[start:stop] - first, self.candidate_R[start:stop])


def _ranks(similarity_QC: Tensor, pairs: _Pairs) -> Tensor:
    """All wrong candidates but those that are below the best right one stand ahead of it."""
    if not similarity_QC.is_floating_point():
        similarity_QC = similarity_QC.double()
    query_R, right_R = pairs.query_R, similarity_QC[pairs.query_R, pairs.candidate_R]
    best_Q = right_R.new_full((len(similarity_QC),), -torch.inf).scatter_reduce(
        0, query_R, right_R.masked_fill(right_R.isnan(), -torch.inf), "amax"
    )
    below_Q = (similarity_QC < best_Q[:, None]).sum(dim=1, dtype=torch.int32)
    wrong_below_Q = below_Q - _count(query_R[right_R < best_Q[query_R]], like_Q=below_Q)
    num_wrong_Q = similarity_QC.shape[1] - _count(query_R, like_Q=below_Q)
    return (num_wrong_Q - wrong_below_Q).long() + 1


def _count(query_R: Tensor, like_Q: Tensor) -> Tensor:
    return torch.bincount(query_R, minlength=len(like_Q)).to(like_Q.dtype)


def _pairs(
    relevant: Relevant, num_queries: int, num_candidates: int, device: torch.device
) -> _Pairs:
    """
    Raises:
        ValueError: the numbers don't fit, there is no query, or one has no relevant candidate.
    """
    if not num_queries:
        raise ValueError("there is no query")
    shape = _shape(relevant, num_candidates)
    if shape != (num_queries, num_candidates):
        raise ValueError(
            f"relevance is given for {shape[0]} queries and {shape[1]} candidates,"
            f" similarities for {num_queries} and {num_candidates}"
        )
    if isinstance(relevant, SameGroup):
        pairs = _pairs_of_groups(relevant)
    elif isinstance(relevant, Sequence):
        pairs = _pairs_of_indexes(relevant, num_candidates)
    else:
        query_R, candidate_R = torch.as_tensor(relevant).nonzero(as_tuple=True)
        pairs = _Pairs(query_R, candidate_R)
    without = (pairs.query_R.bincount(minlength=num_queries) == 0).nonzero().flatten().tolist()
    if without:
        raise ValueError(f"a query has no relevant candidate: number {without[0]}")
    return _Pairs(pairs.query_R.to(device), pairs.candidate_R.to(device))


def _shape(relevant: Relevant, num_candidates: int | None) -> tuple[int, int]:
    """How many queries and candidates a relevance is about."""
    if isinstance(relevant, SameGroup):
        return len(relevant.query_Q), len(relevant.candidate_C)
    if isinstance(relevant, Sequence):
        if num_candidates is None:
            raise ValueError("with indexes of relevant candidates, give num_candidates too")
        return len(relevant), num_candidates
    matrix_QC = torch.as_tensor(relevant)
    if matrix_QC.dtype != torch.bool or matrix_QC.ndim != 2:
        found = f"{matrix_QC.dtype} {list(matrix_QC.shape)}"
        raise ValueError(f"a matrix of relevance is bool [queries, candidates], not {found}")
    return matrix_QC.shape[0], matrix_QC.shape[1]


def _pairs_of_groups(groups: SameGroup) -> _Pairs:
    """Sorted by group, the candidates of a query are a range."""
    query_Q, candidate_C = torch.as_tensor(groups.query_Q), torch.as_tensor(groups.candidate_C)
    sorted_C, order_C = candidate_C.sort(stable=True)
    start_Q = torch.searchsorted(sorted_C, query_Q)
    size_Q = torch.searchsorted(sorted_C, query_Q, right=True) - start_Q
    query_R = torch.repeat_interleave(torch.arange(len(query_Q), device=query_Q.device), size_Q)
    place_R = torch.arange(len(query_R), device=query_Q.device)
    place_R += (start_Q - size_Q.cumsum(0) + size_Q)[query_R]
    return _Pairs(query_R, order_C[place_R])


def _pairs_of_indexes(relevant: Sequence[Collection[int]], num_candidates: int) -> _Pairs:
    query_R, candidate_R = [], []
    for query, indexes in enumerate(relevant):
        for candidate in sorted(set(indexes)):
            if isinstance(candidate, bool) or not 0 <= candidate < num_candidates:
                raise ValueError(
                    f"query {query}: {candidate!r} is no index of {num_candidates} candidates"
                )
            query_R.append(query)
            candidate_R.append(int(candidate))
    return _Pairs(
        torch.tensor(query_R, dtype=torch.long), torch.tensor(candidate_R, dtype=torch.long)
    )
