"""Accuracy on balanced pairs."""

import pytest
import torch

from vlpretrain.metrics.matching import balanced_accuracy, match_probability


def test_always_no_is_chance_however_many_negatives_there_are() -> None:
    logit_P2 = torch.tensor([[1.0, 0.0]] * 9)
    match_P = torch.arange(9) < 3
    assert balanced_accuracy(logit_P2, match_P, torch.ones(9)) == 0.5


def test_each_kind_counts_by_its_own_share() -> None:
    # 1 of 2 matches right, 3 of 4 others right.
    says_match = torch.tensor([True, False, False, False, False, True])
    logit_P2 = torch.stack([~says_match, says_match], dim=1).float()
    match_P = torch.tensor([True, True, False, False, False, False])
    assert balanced_accuracy(logit_P2, match_P, torch.ones(6)) == pytest.approx((1 / 2 + 3 / 4) / 2)


def test_pairs_of_no_weight_change_nothing() -> None:
    logit_P2 = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    match_P = torch.tensor([True, False, False])
    assert balanced_accuracy(logit_P2, match_P, torch.tensor([1.0, 1.0, 0.0])) == 1.0


def test_undecided_is_no_match() -> None:
    assert balanced_accuracy(torch.zeros(2, 2), torch.tensor([True, False]), torch.ones(2)) == 0.5


def test_a_missing_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="pairs that match"):
        balanced_accuracy(torch.zeros(2, 2), torch.tensor([True, True]), torch.ones(2))


def test_probability_is_that_of_class_one() -> None:
    probability_P = match_probability(torch.tensor([[0.0, 0.0], [-200.0, 200.0]]))
    assert probability_P.tolist() == pytest.approx([0.5, 1.0])
