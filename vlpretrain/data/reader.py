"""Reads samples by position, one positioned read each, from shards that are indexed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from vlpretrain.data.index import ShardIndex
from vlpretrain.data.shards import Source
from vlpretrain.errors import UserError
from vlpretrain.types import Position, RawSample

_OPEN_SHARDS = 64
# Bytes between a sample's parts that are read along rather than skipped by another read.
_LARGEST_GAP = 1 << 16
TEXT_EXTENSIONS = ("txt", "json")


class ShardReader:
    """Random access to the samples of some sources. Forked copies may read at once.

    Args:
        sources: as `Position.source` counts them.
        open_shards: files kept open; at least the shards of a shuffle block, of every source.
        ahead: position -> the (source, shard) that are read from there on, as
            SampleOrder.shards_ahead: so remote shards are fetched before they are needed.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        open_shards: int = _OPEN_SHARDS,
        ahead: Callable[[int], list[tuple[int, int]]] | None = None,
    ) -> None:
        self.sources = sources
        self.open_shards = open_shards
        self.ahead = ahead
        self._open: dict[tuple[int, int], _OpenShard] = {}

    def read(self, position: Position) -> RawSample:
        """The sample at a position, as bytes.

        Raises:
            UserError: the shard cannot be opened, fetched or read, or is not what was indexed.
        """
        return self._from_shard(position, _OpenShard.read)

    def read_texts(self, position: Position) -> RawSample:
        """The sample without its pictures: its `.txt` and `.json` alone are read."""
        return self._from_shard(position, _OpenShard.read_texts)

    def close(self) -> None:
        self._open.clear()

    def __getstate__(self) -> dict[str, Any]:
        # Open files belong to a process.
        return {**self.__dict__, "_open": {}}

    def _from_shard(
        self, position: Position, read: Callable[[_OpenShard, int], RawSample]
    ) -> RawSample:
        shard = self._open.get((position.source, position.shard))
        if shard is None:
            shard = self._open_shard(position)
        try:
            return read(shard, position.row)
        except OSError as error:
            raise UserError(
                f"the shard can't be read: {error}",
                where=shard.path,
                fix="check the disk that it lies on",
            ) from error

    def _open_shard(self, position: Position) -> _OpenShard:
        source = self.sources[position.source]
        shard = _OpenShard(source.open_shard(position.shard), source.shards[position.shard])
        self._open[position.source, position.shard] = shard
        if len(self._open) > self.open_shards:
            # The longest open, not the least used: blocks pass by, so it is the one behind us.
            del self._open[next(iter(self._open))]
        if self.ahead is not None and source.cache is not None:
            for number, next_shard in self.ahead(position.position):
                self.sources[number].fetch_ahead([next_shard])
        return shard


class _OpenShard:
    """One open shard. The index is read through memoryviews: an item is a plain int, and quick."""

    def __init__(self, descriptor: int, index: ShardIndex) -> None:
        self.descriptor = descriptor
        self.path = index.path
        self.extensions = index.extensions
        self.key_byte_K = index.key_byte_K.tobytes()
        self.key_start_N = index.key_start_N.data
        self.part_start_N = index.part_start_N.data
        self.offset_M = index.part_offset_M.data
        self.size_M = index.part_size_M.data
        self.extension_M = index.part_extension_M.data
        size = os.fstat(descriptor).st_size
        if index.file_size not in (size, -1):
            raise _changed(self.path, f"{size} bytes, but {index.file_size} when it was indexed")

    def __del__(self) -> None:
        os.close(self.descriptor)

    def read_texts(self, row: int) -> RawSample:
        key, members = self._key(row), self._members(row)
        texts = [m for m in members if is_text(self.extensions[self.extension_M[m]])]
        return RawSample(key, self.path, self._read_apart(texts, key))

    def read(self, row: int) -> RawSample:
        key, members = self._key(row), self._members(row)
        start = self.offset_M[members[0]]
        end = self.offset_M[members[-1]] + self.size_M[members[-1]]
        if end - start > sum(self.size_M[m] for m in members) + _LARGEST_GAP:
            return RawSample(key, self.path, self._read_apart(members, key))
        span = self._read_bytes(start, end - start, key)
        parts = {}
        for member in members:
            offset = self.offset_M[member] - start
            parts[self.extensions[self.extension_M[member]]] = span[
                offset : offset + self.size_M[member]
            ]
        return RawSample(key, self.path, parts)

    def _key(self, row: int) -> str:
        return self.key_byte_K[self.key_start_N[row] : self.key_start_N[row + 1]].decode()

    def _members(self, row: int) -> range:
        return range(self.part_start_N[row], self.part_start_N[row + 1])

    def _read_apart(self, members: Sequence[int], key: str) -> dict[str, bytes]:
        return {
            self.extensions[self.extension_M[m]]: self._read_bytes(
                self.offset_M[m], self.size_M[m], key
            )
            for m in members
        }

    def _read_bytes(self, offset: int, size: int, key: str) -> bytes:
        content = os.pread(self.descriptor, size, offset)
        # One pread gives at most 2 GiB - 4 KiB.
        while len(content) < size:
            more = os.pread(self.descriptor, size - len(content), offset + len(content))
            if not more:
                raise _changed(f"{self.path}/{key}", "shorter than when it was indexed")
            content += more
        return content


def is_text(part: str) -> bool:
    """True of a member ("json", "extra.txt") that holds words."""
    return part.lower().rpartition(".")[2] in TEXT_EXTENSIONS


def _changed(where: str, problem: str) -> UserError:
    return UserError(
        f"the shard has changed: {problem}",
        where=where,
        fix="start again: a changed shard is indexed anew",
    )
