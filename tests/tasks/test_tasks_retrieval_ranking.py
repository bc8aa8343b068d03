"""Ranks before and after re-ranking against slow and obvious ones, with ties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlpretrain.metrics import retrieval as metric
from vlpretrain.tasks import ranking as ranking_module
from vlpretrain.tasks.ranking import nearest, rank_candidates, reranked_rank


@st.composite
def embeddings(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, ...]]]:
    """Few distinct values, so that ties are common."""
    num_queries, num_candidates = draw(st.integers(1, 6)), draw(st.integers(3, 12))
    number = st.integers(-1, 1)

    def rows(count: int) -> torch.Tensor:
        row = st.lists(number, min_size=2, max_size=2)
        return torch.tensor(draw(st.lists(row, min_size=count, max_size=count))).float()

    relevant = st.sets(st.integers(0, num_candidates - 1), min_size=1, max_size=7)
    sets = [tuple(sorted(draw(relevant))) for _ in range(num_queries)]
    return rows(num_queries), rows(num_candidates), sets


def reference_order(scores: list[float], k: int, match: list[float], right: set[int]) -> list[int]:
    """Candidates as they stand in the end: the first k by similarity and number are put in the
    order of their match, wrong ones first among equals; then the rest."""
    first = sorted(range(len(scores)), key=lambda c: (-scores[c], c))[:k]
    rest = [c for c in range(len(scores)) if c not in first]
    return [
        *sorted(first, key=lambda c: (-match[c], c in right)),
        *sorted(rest, key=lambda c: (-scores[c], c in right)),
    ]


@settings(deadline=None, max_examples=150)
@given(embeddings(), st.integers(0, 12), st.randoms(use_true_random=False))
def test_ranks_equal_those_of_sorting(problem, k, random) -> None:
    query_QE, candidate_CE, relevant = problem
    similarity_QC = query_QE @ candidate_CE.T
    match_QC = torch.tensor([[float(random.randint(0, 2)) for _ in c] for c in similarity_QC])
    ranking = rank_candidates(query_QE, candidate_CE, relevant, keep=12)
    assert torch.equal(ranking.rank_Q, metric.first_relevant_rank(similarity_QC, relevant))
    match_QK = match_QC.gather(1, ranking.candidate_QK)
    found = reranked_rank(ranking, match_QK, k)
    for query, right in enumerate(relevant):
        scores = similarity_QC[query].tolist()
        order = reference_order(scores, k, match_QC[query].tolist(), set(right))
        best = next(place for place, c in enumerate(order, start=1) if c in right)
        assert found[query] == best


@settings(deadline=None, max_examples=100)
@given(embeddings(), st.integers(0, 12))
def test_the_nearest_are_those_of_a_stable_sort(problem, k) -> None:
    query_QE, candidate_CE, _ = problem
    similarity_QC = query_QE @ candidate_CE.T
    k = min(k, len(candidate_CE))
    order = similarity_QC.sort(dim=1, descending=True, stable=True).indices
    assert torch.equal(nearest(similarity_QC, k), order[:, :k])


def test_units_of_queries_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    query_QE, candidate_CE = torch.randn(10, 4), torch.randn(30, 4)
    relevant = [(row, row + 20) for row in range(10)]
    whole = rank_candidates(query_QE, candidate_CE, relevant, keep=5)
    monkeypatch.setattr(ranking_module, "QUERIES", 3)
    parts = rank_candidates(query_QE, candidate_CE, relevant, keep=5)
    for name in ("rank_Q", "candidate_QK", "right_QK"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
