"""Intervals: against plain resampling, known distributions, and the t table."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from vlpretrain.metrics.interval import (
    accuracy_with_interval,
    bootstrap_interval,
    grouped_accuracy,
    seed_interval,
    t_quantile,
)

LEVELS = np.array([0.0, 0.3, 0.6, 0.9, 1.0])


def generator() -> np.random.Generator:
    return np.random.default_rng(5)


def resampled_interval(score_S: np.ndarray, cluster_S: np.ndarray) -> list[float]:
    """Draws clusters one resample at a time."""
    random = np.random.default_rng(11)
    members = [np.flatnonzero(cluster_S == cluster) for cluster in np.unique(cluster_S)]
    means = []
    for _ in range(3000):
        drawn = random.integers(len(members), size=len(members))
        means.append(score_S[np.concatenate([members[cluster] for cluster in drawn])].mean())
    return np.quantile(means, [0.025, 0.975]).tolist()


@pytest.mark.parametrize("few_values", [True, False])
def test_equals_plain_resampling(few_values: bool) -> None:
    random = generator()
    score_S = random.choice(LEVELS, size=300) if few_values else random.random(300)
    expected = resampled_interval(score_S, np.arange(300))
    width = expected[1] - expected[0]
    found = bootstrap_interval(score_S, num_resamples=20_000)
    assert found == pytest.approx(expected, abs=0.06 * width)


def test_clusters_equal_plain_resampling_of_clusters() -> None:
    random = generator()
    cluster_S = random.integers(60, size=300)
    score_S = (random.random(60)[cluster_S] > random.random(300)).astype(float)
    expected = resampled_interval(score_S, cluster_S)
    found = bootstrap_interval(score_S, cluster_S, num_resamples=20_000)
    assert found == pytest.approx(expected, abs=0.06 * (expected[1] - expected[0]))


def test_a_large_sample_has_the_normal_interval() -> None:
    score_S = (generator().random(20_000) < 0.3).astype(float)
    mean = score_S.mean()
    reach = 1.96 * math.sqrt(mean * (1 - mean) / len(score_S))
    found = bootstrap_interval(score_S, num_resamples=20_000)
    assert found == pytest.approx((mean - reach, mean + reach), abs=0.05 * reach)


def test_it_holds_the_truth_as_often_as_it_says() -> None:
    random = generator()
    held = 0
    for trial in range(400):
        low, high = bootstrap_interval(random.choice(LEVELS, size=200), seed=trial)
        held += low <= LEVELS.mean() <= high
    assert 0.92 <= held / 400 <= 0.98


def test_items_that_go_together_widen_it() -> None:
    of_picture = (generator().random(200) < 0.5).astype(float)
    score_S, cluster_S = of_picture.repeat(10), np.arange(200).repeat(10)
    alone, together = (bootstrap_interval(score_S, c) for c in (None, cluster_S))
    ratio = (together[1] - together[0]) / (alone[1] - alone[0])
    assert ratio == pytest.approx(math.sqrt(10), rel=0.1)


def test_clusters_of_one_item_are_no_clusters() -> None:
    score_S = generator().choice(LEVELS, size=100)
    assert bootstrap_interval(score_S, np.arange(100)) == bootstrap_interval(score_S)


def test_order_is_nothing_and_the_seed_is_all() -> None:
    random = generator()
    score_S, cluster_S = random.choice(LEVELS, size=500), random.integers(90, size=500)
    order_S = random.permutation(500)
    found = bootstrap_interval(score_S, cluster_S)
    assert bootstrap_interval(score_S[order_S], cluster_S[order_S]) == pytest.approx(found)
    assert bootstrap_interval(score_S, [f"picture {c:03d}" for c in cluster_S]) == found
    assert bootstrap_interval(score_S, cluster_S, seed=1) != found


def test_so_many_values_that_they_are_merged_change_nothing() -> None:
    score_S = generator().random(5000)
    merged = bootstrap_interval(score_S)
    error = score_S.std() / math.sqrt(5000)
    assert merged == pytest.approx(
        (score_S.mean() - 1.96 * error, score_S.mean() + 1.96 * error), abs=0.15 * error
    )


def test_200_000_items_take_no_time() -> None:
    random = generator()
    score_S, cluster_S = random.choice(LEVELS, size=200_000), random.integers(40_000, size=200_000)
    start = time.process_time()
    bootstrap_interval(score_S)
    bootstrap_interval(score_S, cluster_S)
    assert time.process_time() - start < 2


def test_equal_scores_have_no_width() -> None:
    assert bootstrap_interval([1.0] * 7) == (1.0, 1.0)
    assert bootstrap_interval([0.3], ["a"]) == (0.3, 0.3)


def test_nothing_and_ill_fitting_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one score"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="for 2 scores"):
        bootstrap_interval([0.0, 1.0], [1])


def test_groups_have_their_own_mean_and_interval() -> None:
    random = generator()
    score_S, cluster_S = random.choice(LEVELS, size=120), np.arange(120) // 3
    names = ["what", "is", "what"] * 40
    rows = grouped_accuracy(score_S, names, cluster_S)
    assert [(row["name"], row["n"]) for row in rows] == [("what", 80), ("is", 40)]
    for row in rows:
        chosen = np.array(names) == row["name"]
        expected = accuracy_with_interval(score_S[chosen], cluster_S[chosen])
        assert row["accuracy"] == expected["accuracy"] == pytest.approx(score_S[chosen].mean())
        assert row["interval"] == expected["interval"]


def test_groups_of_one_size_stand_in_the_alphabet() -> None:
    assert [row["name"] for row in grouped_accuracy([0, 1, 1], ["b", "c", "a"])] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="1 names for 2 scores"):
        grouped_accuracy([0, 1], ["a"])


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (100, 1.984)]
)
def test_t_table(freedom: int, t: float) -> None:
    assert t_quantile(freedom) == pytest.approx(t, abs=5e-4)


def test_interval_over_seeds() -> None:
    found = seed_interval([0.97, 0.98, 0.99])
    reach = 4.3027 * 0.01 / math.sqrt(3)
    assert found.mean == pytest.approx(0.98)
    assert found.interval == pytest.approx((0.98 - reach, 0.98 + reach), abs=1e-6)
    assert found.num_runs == 3


def test_a_single_run_has_no_interval() -> None:
    assert seed_interval([0.5]).interval is None
    with pytest.raises(ValueError, match="at least one score"):
        seed_interval([])
