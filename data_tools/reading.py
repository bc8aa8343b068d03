"""Samples of shards in file order, through the library's own index and reader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from vlpretrain.config.schema import DataConfig
from vlpretrain.data.reader import ShardReader
from vlpretrain.data.shards import Source, open_source
from vlpretrain.types import Position, RawSample, Skip


def open_shards(spec: str) -> Source:
    """The shards that a folder, pattern, file or list names, indexed.

    Raises:
        UserError: there is none, or one can't be read.
    """
    return open_source(spec, DataConfig())


def shard_problems(source: Source) -> list[Skip]:
    """What is broken in the tars themselves."""
    return [problem for shard in source.shards for problem in shard.problems]


def read_samples(source: Source) -> Iterator[RawSample]:
    """Every sample of every shard."""
    reader = ShardReader([source])
    for shard, index in enumerate(source.shards):
        yield from _read(reader, shard, range(len(index)))


def read_rows(spec: str, shard: int, rows: Iterable[int]) -> Iterator[RawSample]:
    """Some samples of one shard; the shards stay open for the next call of this process."""
    yield from _read(_opened_reader(spec), shard, rows)


def _read(reader: ShardReader, shard: int, rows: Iterable[int]) -> Iterator[RawSample]:
    for row in rows:
        yield reader.read(Position(epoch=0, position=row, source=0, shard=shard, row=row))


@lru_cache(maxsize=1)
def _opened_reader(spec: str) -> ShardReader:
    return ShardReader([open_shards(spec)])
