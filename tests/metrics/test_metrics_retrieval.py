"""Recall and ranks against a slow and obvious reference, ties and several relevant included."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlpretrain.metrics.retrieval import (
    chance_recall,
    first_relevant_rank,
    median_rank,
    recall_at_k,
)


def reference_rank(scores: list[float], relevant: set[int]) -> int:
    """Sorts the candidates, wrong ones first among equals, and walks down to a right one."""
    order = sorted(range(len(scores)), key=lambda c: (-scores[c], c in relevant))
    return next(place for place, c in enumerate(order, start=1) if c in relevant)


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, list[set[int]]]:
    num_queries = draw(st.integers(1, 6))
    num_candidates = draw(st.integers(7, 12))
    # Few distinct values, so that ties are common.
    score = st.integers(-2, 2)
    scores = draw(
        st.lists(
            st.lists(score, min_size=num_candidates, max_size=num_candidates),
            min_size=num_queries,
            max_size=num_queries,
        )
    )
    relevant = st.sets(st.integers(0, num_candidates - 1), min_size=1, max_size=7)
    return torch.tensor(scores, dtype=torch.float32), [draw(relevant) for _ in range(num_queries)]


@settings(deadline=None, max_examples=100)
@given(problems())
def test_ranks_equal_those_of_sorting(problem: tuple[torch.Tensor, list[set[int]]]) -> None:
    similarity_QC, relevant = problem
    expected = [
        reference_rank(row, right)
        for row, right in zip(similarity_QC.tolist(), relevant, strict=True)
    ]
    assert first_relevant_rank(similarity_QC, relevant).tolist() == expected
    recall = recall_at_k(similarity_QC, relevant, [1, 5, 10])
    for k in (1, 5, 10):
        assert recall[k] == pytest.approx(sum(rank <= k for rank in expected) / len(expected))


def test_a_matrix_and_lists_of_indexes_say_the_same() -> None:
    similarity_QC = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    relevant = [{0, 3}, {8}, {1, 2, 4, 5, 6, 7, 8}, {5}]
    matrix_QC = torch.zeros(4, 9, dtype=torch.bool)
    for query, indexes in enumerate(relevant):
        matrix_QC[query, list(indexes)] = True
    assert recall_at_k(similarity_QC, relevant, [1, 3]) == recall_at_k(
        similarity_QC, matrix_QC, [1, 3]
    )


def test_one_score_for_everything_is_no_success() -> None:
    assert recall_at_k(torch.zeros(3, 10), [{0}, {1}, {2}], [1, 9]) == {1: 0.0, 9: 0.0}


def test_nan_never_helps() -> None:
    similarity_QC = torch.tensor([[torch.nan, 0.0], [0.0, torch.nan]])
    assert first_relevant_rank(similarity_QC, [{0}, {0}]).tolist() == [2, 2]


def test_median_rank() -> None:
    similarity_QC = torch.tensor([[3.0, 2.0, 1.0]] * 3)
    assert median_rank(similarity_QC, [{0}, {1}, {2}]) == 2.0


def test_a_query_without_relevant_candidates_is_refused() -> None:
    with pytest.raises(ValueError, match="no relevant"):
        recall_at_k(torch.zeros(2, 3), [{0}, set()], [1])


def test_chance_is_the_mean_over_all_orders() -> None:
    relevant_QC = torch.tensor([[True, True, False, False, False], [True] + [False] * 4])
    for k in (1, 2, 5):
        hits = [
            any(right[c] for c in order[:k])
            for right in relevant_QC.tolist()
            for order in itertools.permutations(range(5))
        ]
        assert chance_recall(relevant_QC, [k])[k] == pytest.approx(sum(hits) / len(hits))
