"""Which sample comes when: a pure function of (seed, epoch, position).

So the data state of a run is one integer. Unweighted, the shards of all sources are one table, and
every sample comes once an epoch. Weighted, positions are dealt to the sources in exact proportion
and each source goes through its own epochs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np

from vlpretrain.errors import UserError
from vlpretrain.types import Position

LONGEST_PERIOD = 1 << 16  # positions after which the dealing among weighted sources repeats
_CACHED = 4  # blocks (and epochs) remembered: the current ones, and those of a substitute's look-up
_SHARDS, _ROWS = 1, 2  # what a permutation is of

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class SampleOrder:
    """The sample order of a run.

    Args:
        sizes: samples of every shard of every source.
        weights: a positive weight a source, or empty: every sample once an epoch.
        seed: of the shuffle.
        shuffle: shuffle the shards each epoch, then the samples within blocks of shards.
        block: shards shuffled together.

    Raises:
        UserError: there is no sample, or the weights do not fit the sources.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int]],
        weights: Sequence[float] = (),
        seed: int = 0,
        shuffle: bool = True,
        block: int = 8,
    ) -> None:
        tables = [_ShardTable.of_source(source, counts) for source, counts in enumerate(sizes)]
        self.epoch_length = sum(table.num_samples for table in tables)
        if not self.epoch_length:
            raise UserError("the training sources hold no sample", where="data.train")
        if block < 1:
            raise UserError(
                f"{block} shards cannot be shuffled together", where="data.shuffle_block"
            )
        if weights:
            self.shares = _shares(weights, tables)
        else:
            tables, self.shares = [_ShardTable.joined(tables)], (Fraction(1),)
        self._deal = _Deal.of_shares(self.shares)
        keys = [_mix_all(seed, number) for number in range(len(tables))]
        self._walks = [
            _Walk(table, key, shuffle, block) for table, key in zip(tables, keys, strict=True)
        ]

    def locate(self, first: int, last: int) -> list[Position]:
        """Positions first .. last - 1, counted on over all epochs."""
        if first >= last:
            return []
        dealt = self._deal.positions(first, last)
        rows_5: np.ndarray = np.empty((5, last - first), np.int64)
        for number, walk in enumerate(self._walks):
            mine = np.flatnonzero(dealt.stream == number)
            if len(mine):
                turn = dealt.turn[mine]
                rows_5[:, mine] = walk.locate(int(turn[0]), int(turn[-1]) + 1)
        rows_5[1] = np.arange(first, last)
        return [Position(*row) for row in rows_5.T.tolist()]

    def shards_ahead(self, position: int, blocks: int = 2) -> list[tuple[int, int]]:
        """(source, shard) of what is read from `position` on, `blocks` blocks of every source."""
        dealt = self._deal.positions(position, position + self._deal.period)
        ahead: list[tuple[int, int]] = []
        for number, walk in enumerate(self._walks):
            ahead += walk.shards_ahead(int(dealt.turn[dealt.stream == number][0]), blocks)
        return list(dict.fromkeys(ahead))


@dataclass(frozen=True, eq=False)
class _ShardTable:
    """S shards that are walked through together."""

    source_S: np.ndarray
    shard_S: np.ndarray
    size_S: np.ndarray

    @property
    def num_samples(self) -> int:
        return int(self.size_S.sum())

    @classmethod
    def of_source(cls, source: int, sizes: Sequence[int]) -> _ShardTable:
        size_S = np.asarray(sizes, np.int64)
        return cls(np.full(len(size_S), source), np.arange(len(size_S)), size_S)

    @classmethod
    def joined(cls, tables: Sequence[_ShardTable]) -> _ShardTable:
        return cls(
            np.concatenate([table.source_S for table in tables]),
            np.concatenate([table.shard_S for table in tables]),
            np.concatenate([table.size_S for table in tables]),
        )


@dataclass(frozen=True, eq=False)
class _Epoch:
    """One epoch's order of shards."""

    order_S: np.ndarray  # which shard of the table comes s-th
    shard_start_S: np.ndarray  # its first sample in the epoch, before shuffling; S + 1 long
    block_start: np.ndarray  # first sample of every block, and the epoch's end


class _Walk:
    """A table of shards, walked through epoch by epoch in shuffled blocks."""

    def __init__(self, table: _ShardTable, key: int, shuffle: bool, block: int) -> None:
        self.table = table
        self.key = key
        self.shuffle = shuffle
        self.block = block
        self._epochs: dict[int, _Epoch] = {}
        self._permutations: dict[tuple[int, int], np.ndarray] = {}

    def locate(self, first: int, last: int) -> np.ndarray:
        """Turns first .. last - 1 as rows (epoch, turn, source, shard, row): int64 [5, turns]."""
        pieces = []
        while first < last:
            number, offset = divmod(first, self.table.num_samples)
            epoch = self._epoch(number)
            block = int(np.searchsorted(epoch.block_start, offset, "right")) - 1
            begin, end = epoch.block_start[block : block + 2].tolist()
            count = min(last - first, end - offset)
            piece = self._block_order(number, block, begin, end)[offset - begin :][:count]
            pieces.append(self._rows(number, epoch, begin + piece))
            first += count
        return np.concatenate(pieces, axis=1)

    def shards_ahead(self, turn: int, blocks: int) -> list[tuple[int, int]]:
        """(source, shard) of the block that `turn` falls into and of those after it."""
        number, offset = divmod(turn, self.table.num_samples)
        starts = self._epoch(number).block_start
        first = (int(np.searchsorted(starts, offset, "right")) - 1) * self.block
        entries = self._epoch(number).order_S[first : first + blocks * self.block]
        missing = blocks * self.block - len(entries)
        entries = np.concatenate([entries, self._epoch(number + 1).order_S[:missing]])
        sources, shards = self.table.source_S[entries], self.table.shard_S[entries]
        return list(zip(sources.tolist(), shards.tolist(), strict=True))

    def _rows(self, number: int, epoch: _Epoch, sample: np.ndarray) -> np.ndarray:
        """Where the given samples of an epoch (before shuffling) lie."""
        place = np.searchsorted(epoch.shard_start_S, sample, "right") - 1
        entry = epoch.order_S[place]
        row = sample - epoch.shard_start_S[place]
        epochs = np.full(len(sample), number)
        return np.stack(
            [epochs, epochs, self.table.source_S[entry], self.table.shard_S[entry], row]
        )

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._epochs:
            num_shards = len(self.table.size_S)
            key = _mix_all(self.key, number, _SHARDS)
            order_S = permutation(key, num_shards) if self.shuffle else np.arange(num_shards)
            shard_start_S = np.concatenate([[0], np.cumsum(self.table.size_S[order_S])])
            block_start = np.append(shard_start_S[:-1][:: self.block], shard_start_S[-1])
            _remember(self._epochs, number, _Epoch(order_S, shard_start_S, block_start))
        return self._epochs[number]

    def _block_order(self, number: int, block: int, begin: int, end: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(end - begin)
        if (number, block) not in self._permutations:
            key = _mix_all(self.key, number, _ROWS, block)
            _remember(self._permutations, (number, block), permutation(key, end - begin))
        return self._permutations[number, block]


def _remember(cache: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    cache[key] = value
    while len(cache) > _CACHED:
        del cache[next(iter(cache))]


@dataclass(frozen=True, eq=False)
class _Dealt:
    stream: np.ndarray  # whose turn each position is
    turn: np.ndarray  # and which of its turns


@dataclass(frozen=True, eq=False)
class _Deal:
    """One period of the dealing: position p of it goes to stream_P[p], as its rank_P[p]-th."""

    period: int
    stream_P: np.ndarray
    rank_P: np.ndarray
    quota: np.ndarray  # turns of each stream in a period

    @classmethod
    def of_shares(cls, shares: Sequence[Fraction]) -> _Deal:
        period = math.lcm(*(share.denominator for share in shares))
        quota = [int(share * period) for share in shares]
        stream_P = np.array(deal_period(quota), np.int64)
        rank_P = np.empty_like(stream_P)
        for stream, count in enumerate(quota):
            rank_P[stream_P == stream] = np.arange(count)
        return cls(period, stream_P, rank_P, np.array(quota, np.int64))

    def positions(self, first: int, last: int) -> _Dealt:
        position = np.arange(first, last)
        place = position % self.period
        stream = self.stream_P[place]
        return _Dealt(stream, position // self.period * self.quota[stream] + self.rank_P[place])


def deal_period(quota: Sequence[int]) -> list[int]:
    """Deals sum(quota) positions so that every prefix of n holds n * quota / sum within 1 of each.

    The chairman assignment of Tijdeman (1980), whose bound is 1 - 1 / (2k - 2) for k streams.
    """
    num_streams, period = len(quota), sum(quota)
    if num_streams == 1:
        return [0] * period
    slack = 2 * num_streams - 2
    scale = [math.lcm(*quota) // share for share in quota]
    due = [0] * num_streams  # (n * share - turns so far), times period * slack
    dealt = []
    for _ in range(period):
        due = [owed + share * slack for owed, share in zip(due, quota, strict=True)]
        ready = [stream for stream in range(num_streams) if due[stream] >= period]
        urgent = min(ready, key=lambda s: (period * (slack - 1) - due[s]) * scale[s])
        due[urgent] -= period * slack
        dealt.append(urgent)
    return dealt


def _shares(weights: Sequence[float], tables: Sequence[_ShardTable]) -> tuple[Fraction, ...]:
    if len(weights) != len(tables):
        raise UserError(
            f"{len(weights)} weights for {len(tables)} sources",
            where="data.weights",
            fix="give one weight for each entry of data.train, or none",
        )
    for number, (weight, table) in enumerate(zip(weights, tables, strict=True)):
        if not (math.isfinite(weight) and weight > 0):
            raise UserError(
                f"weight {weight} is not a positive number",
                where=f"data.weights[{number}]",
                fix="to leave a source out, take it out of data.train",
            )
        if not table.num_samples:
            raise UserError("the source holds no sample", where=f"data.train[{number}]")
    return exact_shares(weights)


def exact_shares(weights: Sequence[float]) -> tuple[Fraction, ...]:
    """Each weight's share of the sum, of the decimals as they are written (0.7 is 7/10).

    Weights whose common denominator is over LONGEST_PERIOD are rounded to its multiples.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    shares = tuple(weight / sum(exact) for weight in exact)
    if math.lcm(*(share.denominator for share in shares)) <= LONGEST_PERIOD:
        return shares
    turns = [max(1, round(share * LONGEST_PERIOD)) for share in shares]
    turns[turns.index(max(turns))] += LONGEST_PERIOD - sum(turns)
    return tuple(Fraction(turn, LONGEST_PERIOD) for turn in turns)


def permutation(key: int, length: int) -> np.ndarray:
    """0 .. length - 1, shuffled: the same for ever, whatever the version of numpy.

    The numbers are sorted by their SplitMix64 hashes (Steele, Lea, Flood 2014), which never tie:
    the hash is a bijection.
    """
    return np.argsort(_mix(np.uint64(key) + np.arange(length, dtype=np.uint64)))


def _mix_all(*values: int) -> int:
    """One 64-bit key of several integers."""
    key = np.zeros(1, np.uint64)
    for value in values:
        key = _mix(key ^ np.uint64(value % (1 << 64)))
    return int(key[0])


def _mix(value: np.ndarray) -> np.ndarray:
    """SplitMix64's next output for every uint64 state."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
