"""How far a figure can be trusted.

Shapes: S items (one score each), C clusters, K distinct kinds of clusters, R resamples, V runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
NUM_RESAMPLES = 2000
_MOST_NUMBERS = 1 << 20  # drawn at once
_DIGITS = 9  # scores nearer than this are one kind
# From so many kinds on, those of one part in 1,024 of the scores' range are one, with the mean of
# their scores: the mean of all stays, the interval narrows by under a part in a million.
_MOST_KINDS, _PARTS = 4096, 1024


class AccuracyRow(TypedDict):
    name: str
    n: int
    accuracy: float
    interval: list[float]


class Accuracy(TypedDict):
    accuracy: float
    interval: list[float]


@dataclass(frozen=True, slots=True)
class OverRuns:
    """Mean over runs that differ by their seed; no interval from a single run."""

    mean: float
    interval: tuple[float, float] | None
    num_runs: int


def bootstrap_interval(
    score_S: ArrayLike,
    cluster_S: ArrayLike | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean score (Efron 1979).

    The same for any order of the items. Scores that are all equal give an interval of no width,
    which says nothing about what was not seen: look at n.

    Args:
        cluster_S: what each item belongs to, numbers or names. Whole clusters are drawn then:
            questions about one picture are right or wrong together, and an interval that takes
            them for independent is too narrow. None draws single items.

    Raises:
        ValueError: there is no item, or as many clusters as scores are not given.
    """
    score_S = _scores(score_S)
    kinds = _kinds(score_S, cluster_S)
    mean_R = np.concatenate(list(_resampled_means(kinds, num_resamples, seed)))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(mean_R, [tail, 1 - tail])
    return float(low), float(high)


def accuracy_with_interval(
    score_S: ArrayLike, cluster_S: ArrayLike | None = None, seed: int = 0
) -> Accuracy:
    interval = bootstrap_interval(score_S, cluster_S, seed=seed)
    return {"accuracy": float(_scores(score_S).mean()), "interval": list(interval)}


def grouped_accuracy(
    score_S: ArrayLike,
    names: Sequence[str],
    cluster_S: ArrayLike | None = None,
    seed: int = 0,
) -> list[AccuracyRow]:
    """The mean score of the items of each name, the most frequent name first."""
    score_S = _scores(score_S)
    if len(names) != len(score_S):
        raise ValueError(f"{len(names)} names for {len(score_S)} scores")
    distinct, group_S, count_of_group = np.unique(
        np.asarray(names, dtype=object).astype(str), return_inverse=True, return_counts=True
    )
    item_of_place = np.split(np.argsort(group_S, kind="stable"), np.cumsum(count_of_group)[:-1])
    rows: list[AccuracyRow] = []
    for group in np.argsort(-count_of_group, kind="stable"):
        items = item_of_place[group]
        clusters = None if cluster_S is None else np.asarray(cluster_S)[items]
        found = accuracy_with_interval(score_S[items], clusters, seed)
        rows.append({"name": str(distinct[group]), "n": len(items), **found})
    return rows


def seed_interval(values: Sequence[float]) -> OverRuns:
    """Mean of a figure over runs, and its 95 % interval by Student's t.

    Three runs have a wide one (4.3 standard errors), as three runs should.
    """
    value_V = _scores(values)
    mean, num_runs = float(value_V.mean()), len(value_V)
    if num_runs == 1:
        return OverRuns(mean, None, 1)
    error = float(value_V.std(ddof=1)) / math.sqrt(num_runs)
    reach = t_quantile(num_runs - 1) * error
    return OverRuns(mean, (mean - reach, mean + reach), num_runs)


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t that Student's distribution stays within, both ways, with the probability `level`."""
    low, high = 0.0, 1.0
    while _t_within(high, freedom) < level:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, freedom) < level else (low, middle)
    return high


@dataclass(frozen=True, slots=True)
class _Kinds:
    """Clusters that bring the same sum of scores by the same number of items are one kind."""

    sum_K: Floats
    size_K: Floats
    count_K: NDArray[np.int64]


def _scores(score_S: ArrayLike) -> Floats:
    array_S = np.asarray(score_S, dtype=np.float64)
    if array_S.ndim != 1 or not len(array_S):
        raise ValueError(f"at least one score is needed, in one row; got shape {array_S.shape}")
    return array_S


def _kinds(score_S: Floats, cluster_S: ArrayLike | None) -> _Kinds:
    if cluster_S is None:
        sum_C, size_C = score_S, np.ones(len(score_S))
    else:
        sum_C, size_C = _by_cluster(score_S, np.asarray(cluster_S))
    kinds = _merge(np.round(sum_C, _DIGITS), sum_C, size_C)
    if len(kinds.count_K) <= _MOST_KINDS:
        return kinds
    return _merge(np.floor((sum_C - sum_C.min()) * (_PARTS / np.ptp(sum_C))), sum_C, size_C)


def _merge(label_C: Floats, sum_C: Floats, size_C: Floats) -> _Kinds:
    """Clusters of equal size and label as one kind, with the mean of their sums."""
    pair_K, kind_C, count_K = np.unique(
        label_C + 1j * size_C, return_inverse=True, return_counts=True
    )
    return _Kinds(np.bincount(kind_C, weights=sum_C) / count_K, pair_K.imag, count_K)


def _by_cluster(score_S: Floats, cluster_S: NDArray[Any]) -> tuple[Floats, Floats]:
    if cluster_S.shape != score_S.shape:
        raise ValueError(f"clusters of shape {cluster_S.shape} for {len(score_S)} scores")
    _, number_S, size_C = np.unique(cluster_S, return_inverse=True, return_counts=True)
    sum_C = np.bincount(number_S, weights=score_S)
    return sum_C.astype(np.float64), size_C.astype(np.float64)


def _resampled_means(kinds: _Kinds, num_resamples: int, seed: int) -> Iterator[Floats]:
    """Means of resamples, some at a time: how often each kind is drawn is multinomial."""
    generator = np.random.default_rng(seed)
    num_clusters = int(kinds.count_K.sum())
    share_K = kinds.count_K / num_clusters
    at_once = max(1, _MOST_NUMBERS // len(share_K))
    for first in range(0, num_resamples, at_once):
        rows = min(at_once, num_resamples - first)
        times_RK = generator.multinomial(num_clusters, share_K, size=rows)
        yield (times_RK @ kinds.sum_K) / (times_RK @ kinds.size_K)


def _t_within(t: float, freedom: int) -> float:
    """Probability of |T| < t, a finite sum for whole degrees of freedom (Student 1908)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for step in range(freedom // 2):
        total += term
        term *= cosine**2 * (2 * step + 1 + odd) / (2 * step + 2 + odd)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
