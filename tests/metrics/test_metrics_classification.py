"""Top-k, per class, and nearest neighbours, against loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlpretrain.metrics import classification
from vlpretrain.metrics.classification import (
    knn_predict,
    label_rank,
    per_class_accuracy,
    top_k_accuracy,
)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(-1, 1), min_size=4, max_size=4), min_size=1, max_size=6))
def test_ranks_count_the_wrong_classes_that_are_not_below(scores: list[list[int]]) -> None:
    for label in range(4):
        label_B = torch.full((len(scores),), label)
        expected = [
            1 + sum(score >= row[label] for c, score in enumerate(row) if c != label)
            for row in scores
        ]
        assert label_rank(torch.tensor(scores, dtype=torch.float32), label_B).tolist() == expected


def test_top_k() -> None:
    score_BC = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 1.0, 0.0]])
    assert top_k_accuracy(score_BC, torch.tensor([0, 1, 0]), [1, 2, 3]) == {
        1: pytest.approx(1 / 3),
        2: 1.0,
        3: 1.0,
    }


def test_one_score_for_everything_is_no_success() -> None:
    assert top_k_accuracy(torch.zeros(2, 9), torch.tensor([0, 8]), [1, 5]) == {1: 0.0, 5: 0.0}


def test_nan_never_helps() -> None:
    score_BC = torch.tensor([[torch.nan, 0.0], [0.0, torch.nan]])
    assert label_rank(score_BC, torch.tensor([0, 0])).tolist() == [2, 2]


def test_each_class_has_its_own_accuracy() -> None:
    label_B = torch.tensor([0, 0, 0, 0, 2])
    right_B = torch.tensor([True, True, True, False, False])
    found = per_class_accuracy(right_B, label_B, num_classes=3)
    assert found.accuracy_C[[0, 2]].tolist() == [0.75, 0.0]
    assert math.isnan(found.accuracy_C[1].item())
    assert found.mean() == 0.375
    assert found.rows(["cat", "dog", "cow"]) == [
        {"name": "cat", "n": 4, "accuracy": 0.75},
        {"name": "cow", "n": 1, "accuracy": 0.0},
    ]


def votes_by_loops(
    train: torch.Tensor, labels: list[int], query: torch.Tensor, k: int, temperature: float
) -> list[float]:
    cosines = [torch.cosine_similarity(row, query, dim=0).item() for row in train]
    near = sorted(range(len(train)), key=lambda n: -cosines[n])[:k]
    votes = [0.0] * 3
    for n in near:
        votes[labels[n]] += math.exp(cosines[n] / temperature)
    return [vote / sum(votes) for vote in votes]


def test_neighbours_vote_by_their_nearness(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    train_NE = torch.randn(40, 6, generator=generator)
    label_N = torch.randint(3, (40,), generator=generator)
    query_QE = torch.randn(11, 6, generator=generator)
    expected = [votes_by_loops(train_NE, label_N.tolist(), row, 7, 0.5) for row in query_QE]
    found = knn_predict(train_NE, label_N, query_QE, k=7, temperature=0.5, num_classes=3)
    assert torch.allclose(found, torch.tensor(expected), atol=1e-5)
    monkeypatch.setattr(classification, "_MOST_SIMILARITIES", 100)
    in_parts = knn_predict(train_NE, label_N, query_QE, k=7, temperature=0.5, num_classes=3)
    assert torch.allclose(in_parts, found, atol=1e-6)


def test_a_low_temperature_is_the_nearest_neighbour_alone() -> None:
    train_NE = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    found = knn_predict(train_NE, torch.tensor([2, 1, 0]), train_NE, 3, 1e-6, num_classes=3)
    assert found.argmax(dim=1).tolist() == [2, 1, 0]
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("k", [0, 4])
def test_an_impossible_number_of_neighbours_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="3 training samples"):
        knn_predict(torch.eye(3), torch.arange(3), torch.eye(3), k, 0.07, num_classes=3)
