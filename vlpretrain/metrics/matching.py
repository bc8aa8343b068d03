"""Matching: is it told which text belongs to which picture?

Shapes: P pairs.
"""

from __future__ import annotations

from torch import Tensor


def match_probability(logit_P2: Tensor) -> Tensor:
    """float32 [P], the head's probability that the pair belongs together (class 1)."""
    return logit_P2.float().softmax(dim=-1)[:, 1]


def balanced_accuracy(logit_P2: Tensor, match_P: Tensor, weight_P: Tensor) -> float:
    """Mean of the accuracies on pairs that match and on pairs that don't; chance is 0.5.

    Equal to the accuracy on as many of the one as of the other. Ties are answered "no match".

    Args:
        match_P: bool, True where the pair belongs together.
        weight_P: 0 where the pair counts for nothing.

    Raises:
        ValueError: one of the two kinds is missing.
    """
    right_P = ((logit_P2[:, 1] > logit_P2[:, 0]) == match_P).double()
    accuracies = []
    for kind_P in (match_P, ~match_P):
        weight_of_kind_P = weight_P.double() * kind_P
        total = weight_of_kind_P.sum().item()
        if total == 0:
            raise ValueError("a balanced accuracy needs pairs that match and pairs that don't")
        accuracies.append((right_P * weight_of_kind_P).sum().item() / total)
    return sum(accuracies) / 2
