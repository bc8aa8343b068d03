"""The sample order is a pure function of (seed, position) that misses and repeats nothing."""

import pickle
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlpretrain.data.order import LONGEST_PERIOD, SampleOrder, exact_shares, permutation
from vlpretrain.errors import UserError
from vlpretrain.types import Position

SIZES = [[5, 0, 7, 3, 9], [4, 4], [11]]

source_sizes = st.lists(
    st.lists(st.integers(0, 12), min_size=1, max_size=6), min_size=1, max_size=4
).filter(lambda sizes: sum(map(sum, sizes)) > 0)


def places(positions: list[Position]) -> list[tuple[int, int, int]]:
    return [(p.source, p.shard, p.row) for p in positions]


def every_place(sizes: list[list[int]]) -> set[tuple[int, int, int]]:
    return {
        (source, shard, row)
        for source, counts in enumerate(sizes)
        for shard, count in enumerate(counts)
        for row in range(count)
    }


@settings(max_examples=60, deadline=None)
@given(
    sizes=source_sizes, seed=st.integers(0, 2**40), shuffle=st.booleans(), block=st.integers(1, 9)
)
def test_every_sample_comes_exactly_once_an_epoch(
    sizes: list[list[int]], seed: int, shuffle: bool, block: int
) -> None:
    order = SampleOrder(sizes, seed=seed, shuffle=shuffle, block=block)
    length = order.epoch_length
    for epoch in range(3):
        positions = order.locate(epoch * length, (epoch + 1) * length)
        assert {p.epoch for p in positions} == {epoch}
        assert [p.position for p in positions] == list(range(epoch * length, (epoch + 1) * length))
        assert len(positions) == length
        assert set(places(positions)) == every_place(sizes)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), seed=st.integers(0, 100), weighted=st.booleans())
def test_a_slice_does_not_depend_on_what_was_asked_before(
    data: st.DataObject, seed: int, weighted: bool
) -> None:
    weights = (0.5, 0.3, 0.2) if weighted else ()
    whole = SampleOrder(SIZES, weights, seed, block=2).locate(0, 200)
    order = SampleOrder(SIZES, weights, seed, block=2)
    for _ in range(6):
        first = data.draw(st.integers(0, 200))
        last = data.draw(st.integers(first, 200))
        assert order.locate(first, last) == whole[first:last]


def test_a_copy_in_another_process_gives_the_same_order() -> None:
    order = SampleOrder(SIZES, (2, 1, 1), seed=3)
    expected = order.locate(10, 90)
    assert pickle.loads(pickle.dumps(order)).locate(10, 90) == expected


def test_a_far_position_costs_no_walk_to_it() -> None:
    order = SampleOrder(SIZES, (0.7, 0.2, 0.1), seed=1)
    assert [p.position for p in order.locate(10**15, 10**15 + 3)] == [10**15 + i for i in range(3)]


def test_shuffling_changes_with_epoch_and_seed_and_not_without() -> None:
    order, other = SampleOrder(SIZES, seed=0), SampleOrder(SIZES, seed=1)
    length = order.epoch_length
    first = places(order.locate(0, length))
    assert first != places(order.locate(length, 2 * length))
    assert first != places(other.locate(0, length))
    plain = SampleOrder(SIZES, seed=0, shuffle=False)
    assert places(plain.locate(length, 2 * length)) == sorted(every_place(SIZES))


def test_a_block_of_shards_is_read_to_its_end_before_the_next() -> None:
    sizes = [[10] * 12]
    positions = SampleOrder(sizes, seed=5, block=3).locate(0, 120)
    blocks = [{p.shard for p in positions[i : i + 30]} for i in range(0, 120, 30)]
    assert [len(block) for block in blocks] == [3] * 4
    assert sorted(shard for block in blocks for shard in block) == list(range(12))


def test_the_order_of_a_seed_is_the_same_for_ever() -> None:
    # A run that continues under another release must see the same samples: these are fixed.
    assert permutation(7, 8).tolist() == [3, 4, 0, 7, 5, 1, 2, 6]
    rows = places(SampleOrder([[3, 2]], seed=7).locate(0, 5))
    assert rows == [(0, 0, 1), (0, 0, 0), (0, 0, 2), (0, 1, 0), (0, 1, 1)]


def test_permutations_are_even() -> None:
    # 3000 shuffles of 4: each number falls on each place 750 times, give or take 5 deviations.
    count = np.zeros((4, 4), int)
    for key in np.random.default_rng(0).integers(2**63, size=3000).tolist():
        count[np.arange(4), permutation(key, 4)] += 1
    assert abs(count - 750).max() < 5 * np.sqrt(3000 * 0.25 * 0.75)


weight_lists = st.lists(
    st.one_of(st.integers(1, 20).map(float), st.sampled_from([0.7, 0.3, 0.25, 0.1, 0.333])),
    min_size=1,
    max_size=6,
)


@settings(max_examples=30, deadline=None)
@given(weights=weight_lists)
def test_every_prefix_holds_each_source_within_one_sample_of_its_share(
    weights: list[float],
) -> None:
    order = SampleOrder([[3, 4]] * len(weights), weights, seed=1)
    exact = [Fraction(str(weight)) / sum(Fraction(str(w)) for w in weights) for weight in weights]
    source = np.array([p.source for p in order.locate(0, 700)])
    for number, share in enumerate(exact):
        held = np.cumsum(source == number)
        due = np.arange(1, 701) * float(share)
        assert abs(held - due).max() < 1


@settings(max_examples=8, deadline=None)
@given(weights=st.lists(st.floats(0.01, 100), min_size=2, max_size=4))
def test_weights_of_many_digits_hold_as_well(weights: list[float]) -> None:
    shares = exact_shares(weights)
    assert sum(shares) == 1
    assert all(
        abs(share - weight / sum(weights)) < 4 / LONGEST_PERIOD
        for share, weight in zip(shares, weights, strict=True)
    )


def test_weighted_sources_go_through_their_own_epochs() -> None:
    sizes = [[6, 4], [20]]
    order = SampleOrder(sizes, (3, 1), seed=2)
    positions = order.locate(0, 160)
    assert Counter(p.source for p in positions) == {0: 120, 1: 40}
    for source, size in ((0, 10), (1, 20)):
        mine = [p for p in positions if p.source == source]
        for epoch in range(len(mine) // size):
            turn = mine[epoch * size : (epoch + 1) * size]
            assert {p.epoch for p in turn} == {epoch}
            assert len(set(places(turn))) == size


def test_shards_ahead_are_those_that_come() -> None:
    sizes = [[10] * 6, [10] * 6]
    for weights in ((), (1, 1)):
        order = SampleOrder(sizes, weights, seed=4, block=2)
        for position in (0, 35, 119):
            soon = {(p.source, p.shard) for p in order.locate(position, position + 21)}
            assert soon <= set(order.shards_ahead(position))
        assert len(order.shards_ahead(0, blocks=1)) == (4 if weights else 2)


@pytest.mark.parametrize(
    ("sizes", "weights", "said"),
    [
        ([[0, 0]], (), "no sample"),
        ([[1], [1]], (1.0,), "1 weights for 2 sources"),
        ([[1], [1]], (1.0, 0.0), "weight 0.0"),
        ([[1], [1]], (1.0, float("nan")), "weight nan"),
        ([[1], [0]], (1.0, 1.0), r"data.train\[1\]"),
    ],
)
def test_what_cannot_be_ordered_is_told(
    sizes: list[list[int]], weights: tuple[float, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        SampleOrder(sizes, weights)
