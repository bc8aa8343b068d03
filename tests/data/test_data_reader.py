"""The reader gives exactly the bytes of the sample at a position."""

import errno
import os
import pickle
from pathlib import Path

import pytest
import webdataset

from vlpretrain.config.schema import DataConfig
from vlpretrain.data.order import SampleOrder
from vlpretrain.data.reader import ShardReader
from vlpretrain.data.shards import Source, open_source
from vlpretrain.errors import UserError
from vlpretrain.types import Position


def record(shard: int, row: int) -> dict[str, bytes]:
    return {"jpg": bytes([shard, row]) * (300 * row), "txt": f"{shard} {row}".encode(), "json": b""}


def write_shards(folder: Path, num_shards: int, num_samples: int) -> Source:
    for shard in range(num_shards):
        with webdataset.TarWriter(str(folder / f"{shard}.tar")) as writer:
            for row in range(num_samples):
                writer.write({"__key__": f"{shard}/k{row}", **record(shard, row)})
    return open_source(str(folder), DataConfig(cache_dir=str(folder / "cache")))


def test_every_position_gives_its_sample(tmp_path: Path) -> None:
    source = write_shards(tmp_path, num_shards=5, num_samples=7)
    order = SampleOrder([source.sizes.tolist()], seed=1, block=3)
    # Two open files for blocks of three: they are closed and opened again all the time.
    reader = ShardReader([source], open_shards=2)
    for position in order.locate(0, 70):
        sample = reader.read(position)
        assert sample.key == f"{position.shard}/k{position.row}"
        assert sample.shard == str(tmp_path / f"{position.shard}.tar")
        assert sample.parts == record(position.shard, position.row)


def test_open_files_are_bounded(tmp_path: Path) -> None:
    source = write_shards(tmp_path, num_shards=9, num_samples=1)
    reader = ShardReader([source], open_shards=3)
    before = len(os.listdir("/proc/self/fd"))
    for shard in range(9):
        reader.read(Position(0, 0, 0, shard, 0))
    assert len(os.listdir("/proc/self/fd")) == before + 3
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_copy_reads_on_its_own(tmp_path: Path) -> None:
    source = write_shards(tmp_path, num_shards=1, num_samples=2)
    reader = ShardReader([source])
    position = Position(0, 1, 0, 0, 1)
    expected = reader.read(position)
    copy = pickle.loads(pickle.dumps(reader))
    reader.close()
    assert copy.read(position) == expected


def test_parts_far_apart_are_read_apart(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        writer.write({"__key__": "a", "jpg": b"picture"})
        writer.write({"__key__": "b", "jpg": bytes(200_000)})
        writer.write({"__key__": "a", "txt": b"caption"})
    source = open_source(str(tmp_path), DataConfig())
    sample = ShardReader([source]).read(Position(0, 0, 0, 0, 0))
    assert sample.parts == {"jpg": b"picture", "txt": b"caption"}


def test_a_shard_that_changed_since_it_was_indexed_is_told(tmp_path: Path) -> None:
    source = write_shards(tmp_path, num_shards=1, num_samples=3)
    reader = ShardReader([source])
    path = tmp_path / "0.tar"
    with path.open("r+b") as file:
        file.truncate(1024)
    with pytest.raises(
        UserError, match=r"0\.tar: the shard has changed: 1024 bytes, but \d+ when it was indexed"
    ):
        reader.read(Position(0, 2, 0, 0, 2))


def test_a_shard_that_is_cut_while_it_is_read_is_told(tmp_path: Path) -> None:
    source = write_shards(tmp_path, num_shards=1, num_samples=3)
    reader = ShardReader([source])
    reader.read(Position(0, 0, 0, 0, 0))
    with (tmp_path / "0.tar").open("r+b") as file:
        file.truncate(1024)
    with pytest.raises(UserError, match="0/k2: the shard has changed: shorter"):
        reader.read(Position(0, 2, 0, 0, 2))


def test_a_shard_that_is_gone_is_told(tmp_path: Path) -> None:
    source = write_shards(tmp_path, num_shards=1, num_samples=3)
    (tmp_path / "0.tar").unlink()
    with pytest.raises(UserError, match=r"0\.tar: cannot be read: No such file"):
        ShardReader([source]).read(Position(0, 0, 0, 0, 0))


def test_a_failing_disk_is_told_with_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    reader = ShardReader([write_shards(tmp_path, num_shards=1, num_samples=1)])
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(UserError, match=r"\.tar: the shard can't be read: .*Input/output error"):
        reader.read(Position(0, 0, 0, 0, 0))


def test_texts_are_read_without_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_shards(tmp_path, num_shards=1, num_samples=5)
    reader = ShardReader([source])
    sizes: list[int] = []

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return os_pread(descriptor, size, offset)

    os_pread = os.pread
    monkeypatch.setattr(os, "pread", pread)
    sample = reader.read_texts(Position(0, 4, 0, 0, 4))
    assert sample.parts == {"txt": b"0 4", "json": b""}
    assert sum(sizes) == 3
