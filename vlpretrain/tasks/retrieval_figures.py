"""What a retrieval comes to in figures. Shapes: Q queries, C candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from vlpretrain.metrics.interval import bootstrap_interval
from vlpretrain.metrics.retrieval import chance_recall
from vlpretrain.tasks.retrieval_search import Direction, Found

RECALL_AT = (1, 5, 10)


def figures(found: Found) -> dict[str, float]:
    """By name, as metrics.jsonl has them."""
    named: dict[str, float] = {}
    for way, direction in found.directions.items():
        named |= _ranked_figures(f"val/{way}", direction.ranks(0))
        if found.largest_k:
            named |= _ranked_figures(f"val/{way}_reranked", direction.ranks(found.largest_k))
        for k, value in chance(direction).items():
            named[f"val/chance_{way}_recall@{k}"] = value
    return named


def recall(rank_Q: Tensor, k: int) -> float:
    """Share of the queries whose best right candidate is among the first k."""
    return (rank_Q <= k).double().mean().item()


def median(rank_Q: Tensor) -> float:
    return rank_Q.double().quantile(0.5).item()


def interval(direction: Direction, k: int) -> list[float]:
    """95 % of recall@1 with the first k re-ranked, by whole pictures: the captions of one are found
    together."""
    hit_Q = (direction.ranks(k) <= 1).double()
    return list(bootstrap_interval(hit_Q.numpy(), direction.cluster_Q.numpy()))


def chance(direction: Direction) -> dict[int, float]:
    """Recall of a random order of the candidates."""
    total = dict.fromkeys(RECALL_AT, 0.0)
    candidate_C = torch.arange(direction.num_candidates)
    # It depends on a query by the number of its right candidates alone, and these are few.
    for count in direction.num_relevant_Q.unique():
        share = (direction.num_relevant_Q == count).double().mean().item()
        for k, value in chance_recall((candidate_C < count)[None], RECALL_AT).items():
            total[k] += share * value
    return total


def _ranked_figures(prefix: str, rank_Q: Tensor) -> dict[str, float]:
    recalls = {f"{prefix}_recall@{k}": recall(rank_Q, k) for k in RECALL_AT}
    return recalls | {f"{prefix}_median_rank": median(rank_Q)}
