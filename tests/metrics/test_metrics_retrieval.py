"""Recall and ranks against a slow and obvious reference, ties and several relevant included."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlpretrain.metrics import retrieval
from vlpretrain.metrics.retrieval import (
    SameGroup,
    chance_recall,
    first_relevant_rank,
    median_rank,
    rank_from_embeddings,
    recall_at_k,
    recall_from_embeddings,
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


@st.composite
def captioned_pictures(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings of whole numbers, so that products are exact and ties common; whose text is whose.

    1 to 7 captions a picture, in any order.
    """
    num_captions = draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    image_ids = [image for image, count in enumerate(num_captions) for _ in range(count)]
    text_image_id = torch.tensor(draw(st.permutations(image_ids)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    image_IE = torch.randint(-1, 2, (len(num_captions), 3), generator=generator)
    text_TE = torch.randint(-1, 2, (len(image_ids), 3), generator=generator)
    return image_IE, text_TE, text_image_id


@settings(deadline=None, max_examples=100)
@given(captioned_pictures(), st.integers(1, 5))
def test_recall_from_embeddings_equals_sorting_both_ways(
    problem: tuple[torch.Tensor, torch.Tensor, torch.Tensor], chunk: int
) -> None:
    image_IE, text_TE, text_image_id = problem
    image_id = torch.arange(len(image_IE))
    for query_QE, candidate_CE, groups in (
        (image_IE, text_TE, SameGroup(image_id, text_image_id)),
        (text_TE, image_IE, SameGroup(text_image_id, image_id)),
    ):
        right_QC = groups.query_Q[:, None] == groups.candidate_C
        indexes = [set(row.nonzero().flatten().tolist()) for row in right_QC]
        scores = (query_QE @ candidate_CE.T).tolist()
        expected = [reference_rank(row, right) for row, right in zip(scores, indexes, strict=True)]
        for relevant in (groups, indexes, right_QC):
            rank_Q = rank_from_embeddings(query_QE, candidate_CE, relevant, chunk)
            assert rank_Q.tolist() == expected
        recall = recall_from_embeddings(query_QE, candidate_CE, groups, [1, 5], chunk)
        for k in (1, 5):
            assert recall[k] == pytest.approx(sum(rank <= k for rank in expected) / len(expected))


def test_parts_of_a_matrix_are_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity_QC = torch.randint(0, 4, (9, 8), generator=torch.Generator().manual_seed(0)).float()
    relevant = [{query % 8, 3} for query in range(9)]
    whole = first_relevant_rank(similarity_QC, relevant)
    monkeypatch.setattr(retrieval, "_MOST_SCORES", 17)
    assert torch.equal(first_relevant_rank(similarity_QC, relevant), whole)
    assert torch.equal(first_relevant_rank(similarity_QC.T.contiguous().T, relevant), whole)


def test_a_query_has_one_rank_whoever_stands_beside_it() -> None:
    generator = torch.Generator().manual_seed(0)
    # Directions so alike that the last digit of a similarity decides.
    query_QE = 1 + 1e-4 * torch.randn(50, 64, generator=generator)
    candidate_CE = 1 + 1e-4 * torch.randn(400, 64, generator=generator)
    group_Q, group_C = torch.arange(50), torch.arange(400) % 50
    whole = rank_from_embeddings(query_QE, candidate_CE, SameGroup(group_Q, group_C))
    for start, stop in ((0, 1), (7, 8), (3, 50)):
        alone = SameGroup(group_Q[start:stop], group_C)
        part = rank_from_embeddings(query_QE[start:stop], candidate_CE, alone)
        assert torch.equal(part, whole[start:stop])


def test_half_precision_is_compared_in_full() -> None:
    query_QE = torch.tensor([[1.0, 2.0**-10]])
    candidate_CE = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    for dtype in (torch.bfloat16, torch.float32):
        ranks = rank_from_embeddings(query_QE.to(dtype), candidate_CE.to(dtype), [[1]])
        assert ranks.tolist() == [1]


def test_an_index_said_twice_counts_once() -> None:
    similarity_QC = torch.tensor([[3.0, 2.0, 1.0]])
    assert first_relevant_rank(similarity_QC, [[1, 1]]).tolist() == [2]


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


def test_a_group_without_candidates_is_refused() -> None:
    groups = SameGroup(torch.tensor([0, 5]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="number 1"):
        recall_at_k(torch.zeros(2, 2), groups, [1])


@pytest.mark.parametrize(
    ("relevant", "message"),
    [
        ([[0], [3]], "3 is no index of 3"),
        ([[0], [-1]], "-1 is no index of 3"),
        ([[True, False, False]] * 2, "no index"),
        ([[0]], "for 1 queries"),
        (torch.ones(2, 3), "is bool"),
        (torch.ones(3, 2, dtype=torch.bool), "for 3 queries and 2 candidates"),
    ],
)
def test_relevance_that_does_not_fit_is_refused(relevant: retrieval.Relevant, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recall_at_k(torch.zeros(2, 3), relevant, [1])


def test_no_query_is_refused() -> None:
    with pytest.raises(ValueError, match="no query"):
        recall_at_k(torch.zeros(0, 3), [], [1])


def test_chance_is_one_for_all_ways_to_say_what_is_relevant() -> None:
    groups = SameGroup(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1, 2, 1]))
    matrix_QC = groups.query_Q[:, None] == groups.candidate_C
    indexes = [row.nonzero().flatten().tolist() for row in matrix_QC]
    expected = chance_recall(matrix_QC, [1, 2])
    assert chance_recall(groups, [1, 2]) == chance_recall(indexes, [1, 2], 5) == expected
    with pytest.raises(ValueError, match="num_candidates"):
        chance_recall(indexes, [1])


def test_chance_is_the_mean_over_all_orders() -> None:
    relevant_QC = torch.tensor([[True, True, False, False, False], [True] + [False] * 4])
    for k in (1, 2, 5):
        hits = [
            any(right[c] for c in order[:k])
            for right in relevant_QC.tolist()
            for order in itertools.permutations(range(5))
        ]
        assert chance_recall(relevant_QC, [k])[k] == pytest.approx(sum(hits) / len(hits))
