"""What a retrieval comes to in figures."""

from __future__ import annotations

from torch import Tensor

from vlpretrain.metrics.interval import bootstrap_interval
from vlpretrain.metrics.retrieval import chance_recall, median_of_ranks, recall_of_ranks
from vlpretrain.tasks.retrieval_search import Direction, Found

RECALL_AT = (1, 5, 10)


def figures(found: Found) -> dict[str, float]:
    """By name, as metrics.jsonl has them."""
    named: dict[str, float] = {}
    for way, direction in found.directions.items():
        named |= _prefixed(f"val/{way}", measures(direction.ranks(0)))
        if found.largest_k:
            rank_Q = direction.ranks(found.largest_k)
            named |= _prefixed(f"val/{way}_reranked", measures(rank_Q))
        named |= _prefixed(f"val/chance_{way}", chance(direction))
    return named


def measures(rank_Q: Tensor) -> dict[str, float]:
    """Recalls, and the median of the best right candidate's rank."""
    return {**recalls(rank_Q), "median_rank": median_of_ranks(rank_Q)}


def recalls(rank_Q: Tensor) -> dict[str, float]:
    return {f"recall@{k}": value for k, value in recall_of_ranks(rank_Q, RECALL_AT).items()}


def chance(direction: Direction) -> dict[str, float]:
    """Recalls of a random order of the candidates."""
    found = chance_recall(direction.relevant, RECALL_AT, direction.num_candidates)
    return {f"recall@{k}": value for k, value in found.items()}


def interval(direction: Direction, k: int) -> list[float]:
    """95 % of recall@1 with the first k re-ranked, by whole pictures: the captions of one are found
    together."""
    hit_Q = (direction.ranks(k) <= 1).double()
    return list(bootstrap_interval(hit_Q.numpy(), direction.cluster_Q.numpy()))


def _prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in values.items()}
