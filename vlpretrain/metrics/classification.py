"""Classification: is the right class among the first?

Shapes: B samples, C classes, N training samples, Q queries, E embedding width, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

_MOST_SIMILARITIES = 1 << 25  # held at once


class ClassRow(TypedDict):
    name: str
    n: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class ClassAccuracy:
    accuracy_C: Tensor  # float64, NaN for a class without samples
    num_C: Tensor  # int64

    def mean(self) -> float:
        """Over the classes that have samples, each counting alike."""
        return self.accuracy_C[self.num_C > 0].mean().item()

    def rows(self, names: Sequence[str]) -> list[ClassRow]:
        """Those that have samples, in the order of the classes."""
        found = zip(names, self.num_C.tolist(), self.accuracy_C.tolist(), strict=True)
        return [{"name": name, "n": n, "accuracy": share} for name, n, share in found if n]


def top_k_accuracy(score_BC: Tensor, label_B: Tensor, ks: Sequence[int]) -> dict[int, float]:
    """Share of the samples with their class among the k highest scores, for each k."""
    rank_B = label_rank(score_BC, label_B)
    return {k: (rank_B <= k).double().mean().item() for k in ks}


def label_rank(score_BC: Tensor, label_B: Tensor) -> Tensor:
    """int64 [B]: the rank of the right class, from 1.

    Ties are resolved against the model: a wrong class of equal score stands ahead, so one score for
    everything is right nowhere. A NaN of the right class counts as the lowest, of another as the
    highest.
    """
    own_B1 = score_BC.gather(1, label_B[:, None])
    own_B1 = own_B1.masked_fill(own_B1.isnan(), -torch.inf)
    # Not below: the right class itself, the equal, the better, and NaN.
    return (~(score_BC < own_B1)).sum(dim=1)


def per_class_accuracy(right_B: Tensor, label_B: Tensor, num_classes: int) -> ClassAccuracy:
    """
    Args:
        right_B: bool, True where the sample was classified rightly.
    """
    num_C = torch.bincount(label_B, minlength=num_classes)
    right_C = torch.bincount(label_B[right_B], minlength=num_classes)
    return ClassAccuracy(right_C.double() / num_C, num_C)


@torch.no_grad()
def knn_predict(
    train_NE: Tensor,
    train_label_N: Tensor,
    query_QE: Tensor,
    k: int,
    temperature: float,
    num_classes: int,
) -> Tensor:
    """float32 [Q, C]: votes of the k nearest training samples, 1 in all (Wu et al. 2018).

    Nearness is the cosine, and a neighbour's vote weighs exp(cosine / temperature); the highest
    column is the predicted class. Which of equally near samples is the last neighbour is open.

    Raises:
        ValueError: k is not between 1 and the number of training samples.
    """
    if not 1 <= k <= len(train_NE):
        raise ValueError(f"k = {k} neighbours of {len(train_NE)} training samples")
    train_EN = F.normalize(train_NE.float(), dim=-1).T
    rows = max(1, _MOST_SIMILARITIES // len(train_NE))
    votes = []
    for part_BE in F.normalize(query_QE.float(), dim=-1).split(rows):
        near_BK, neighbour_BK = (part_BE @ train_EN).topk(k, dim=1)
        weight_BK = (near_BK / temperature).softmax(dim=1)
        blank_BC = weight_BK.new_zeros(len(part_BE), num_classes)
        votes.append(blank_BC.scatter_add(1, train_label_N[neighbour_BK], weight_BK))
    return torch.cat(votes)
