"""What a user names becomes indexed shards, or a message that says what was looked for."""

import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from vlpretrain.config.schema import DataConfig
from vlpretrain.data import shards
from vlpretrain.data.order import SampleOrder
from vlpretrain.data.reader import ShardReader
from vlpretrain.data.remote import ShardCache
from vlpretrain.data.shards import open_source, resolve_shards
from vlpretrain.errors import UserError
from vlpretrain.types import Position


def tar_bytes(keys: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for key in keys:
            for extension in ("jpg", "txt", "json"):
                info = tarfile.TarInfo(f"{key}.{extension}")
                content = f"{key} {extension}".encode()
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_shards(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number:05d}.tar"
        path.write_bytes(tar_bytes([f"{number:05d}{row:04d}" for row in range(number + 1)]))
    return [str(folder / f"{number:05d}.tar") for number in range(count)]


@pytest.fixture
def bucket() -> Iterator[str]:
    """A remote folder of three shards of 1, 2 and 3 samples."""
    memory = fsspec.filesystem("memory")
    for number in range(3):
        keys = [f"{number}-{row}" for row in range(number + 1)]
        memory.pipe(f"/bucket/{number:05d}.tar", tar_bytes(keys))
    yield "memory://bucket"
    memory.rm("/bucket", recursive=True)


def test_every_way_to_name_shards_finds_them(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "data", 3)
    (tmp_path / "list.txt").write_text(f"# mine\n{paths[0]}\n\ndata/0000{{1..2}}.tar\n")
    folder = str(tmp_path / "data")
    for spec in (folder, f"{folder}/0000{{0..2}}.tar", f"{folder}/*.tar", f"{tmp_path}/list.txt"):
        assert resolve_shards(spec) == paths
    assert resolve_shards(paths[1]) == [paths[1]]


def test_json_manifests_list_shards(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "data", 2)
    names = ["data/00000.tar", paths[1]]
    shardlist = [{"url": name, "nsamples": 1} for name in names]
    for content in (names, {"wids_version": 1, "shardlist": shardlist}):
        (tmp_path / "index.json").write_text(json.dumps(content))
        assert resolve_shards(f"{tmp_path}/index.json") == paths


def test_a_manifest_runs_no_command(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('["pipe:cat secrets"]')
    with pytest.raises(UserError, match="runs a shell command"):
        resolve_shards(f"{tmp_path}/index.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "is not JSON"),
        ("{}", "lists no shards"),
        ("[]", "the list is empty"),
        ("[3]", "not a shard's name: 3"),
        ('[{"path": "a.tar"}]', "not a shard's name"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_said(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(UserError, match=said):
        resolve_shards(f"{tmp_path}/index.json")


def test_img2dataset_folder_is_read_as_it_is(tmp_path: Path) -> None:
    write_shards(tmp_path, 2)
    for number in range(2):
        (tmp_path / f"{number:05d}.parquet").write_bytes(b"PAR1")
        (tmp_path / f"{number:05d}_stats.json").write_text("{}")
    source = open_source(str(tmp_path), DataConfig())
    assert source.sizes.tolist() == [1, 2]
    assert source.shards[1].key(1) == "000010001"
    assert sorted(source.shards[1].parts(1)) == ["jpg", "json", "txt"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{tmp}/nothing", "1 of 1 shards not found: .*nothing"),
        ("{tmp}/empty", r"no shards: the folder holds no \*\.tar"),
        ("{tmp}/outer", "name the folder that holds the .tar files: .*outer/inner"),
        ("{tmp}/packed", "unpack the 1 compressed"),
        ("{tmp}/outer/inner/0000{{0..9}}.tar", "8 of 10 shards not found: .*00002.tar"),
        ("{tmp}/outer/{{0..9", "not found|unbalanced"),
        ("{tmp}/packed/0.tar.gz", "not a .tar file"),
        ("{tmp}/empty.txt", "the list is empty"),
        ("{tmp}/nested.txt", "a list cannot hold a list"),
        ("memory://nowhere", r"no \*\.tar file at the address"),
        ("unknown://bucket", "unknown"),
    ],
)
def test_what_is_not_found_is_named(tmp_path: Path, spec: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    write_shards(tmp_path / "outer" / "inner", 2)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "0.tar.gz").write_bytes(b"")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "nested.txt").write_text("empty.txt\n")
    with pytest.raises(UserError, match=f"(?s){said}"):
        resolve_shards(spec.format(tmp=tmp_path))


def test_an_unreadable_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop.tar").symlink_to(tmp_path / "loop.tar")
    with pytest.raises(UserError, match=r"loop\.tar: cannot be read"):
        open_source(str(tmp_path), DataConfig())


def test_pipes_are_refused_unless_the_danger_is_named(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, 2)
    spec = f"pipe:cat {paths[1]}"
    (tmp_path / "list.txt").write_text(f"{paths[0]}\n{spec}\n")
    for refused in (spec, str(tmp_path / "list.txt")):
        with pytest.raises(UserError, match="runs a shell command: refused"):
            open_source(refused, DataConfig())
    config = DataConfig(allow_unsafe=True, cache_dir=str(tmp_path / "cache"))
    assert open_source(str(tmp_path / "list.txt"), config).sizes.tolist() == [1, 2]


def test_indexing_in_processes_gives_what_one_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path, 20)
    monkeypatch.setattr(shards, "_usable_cores", lambda: 4)
    source = open_source(str(tmp_path), DataConfig())
    assert source.sizes.tolist() == list(range(1, 21))
    assert "indexing shards: 20 of 20" in capsys.readouterr().err
    assert all(Path(f"{index.path}.idx").is_file() for index in source.shards)


def test_remote_shards_are_read_through_the_cache(bucket: str, tmp_path: Path) -> None:
    config = DataConfig(cache_dir=str(tmp_path))
    source = open_source(bucket, config)
    assert source.sizes.tolist() == [1, 2, 3]
    sample = ShardReader([source]).read(Position(0, 0, 0, 2, 1))
    assert (sample.key, sample.parts["txt"]) == ("2-1", b"2-1 txt")
    assert sample.shard == source.shards[2].path
    assert sample.shard.startswith("memory://")


def test_a_kept_index_saves_fetching_until_the_remote_shard_changes(
    bucket: str, tmp_path: Path
) -> None:
    config = DataConfig(cache_dir=str(tmp_path))
    open_source(bucket, config)
    for copy in (tmp_path / "shards").glob("*.tar"):
        copy.unlink()
    assert open_source(bucket, config).sizes.tolist() == [1, 2, 3]
    assert not list((tmp_path / "shards").glob("*.tar"))
    fsspec.filesystem("memory").pipe("/bucket/00000.tar", tar_bytes(["a", "b", "c", "d"]))
    assert open_source(bucket, config).sizes.tolist() == [4, 2, 3]


def test_the_cache_is_held_under_its_size(bucket: str, tmp_path: Path) -> None:
    size = len(tar_bytes(["0"]))
    cache = ShardCache(tmp_path, limit=2 * size)
    urls = [f"{bucket}/{number:05d}.tar" for number in range(3)]
    for order, url in enumerate([urls[0], urls[1], urls[0], urls[2]]):
        # The clock of some file systems is coarser than this test.
        os.utime(cache.fetch(url), (order, order))
    assert not cache.place(urls[1]).exists()
    assert cache.place(urls[0]).exists()
    assert cache.place(urls[2]).exists()
    assert not list(tmp_path.glob("*.part"))


def test_shards_are_fetched_ahead_of_their_use(bucket: str, tmp_path: Path) -> None:
    source = open_source(bucket, DataConfig(cache_dir=str(tmp_path)))
    assert source.cache is not None
    places = [source.cache.place(shard.path) for shard in source.shards]
    for place in places:
        place.unlink()
    order = SampleOrder([source.sizes.tolist()], seed=0, block=1)
    reader = ShardReader([source], ahead=order.shards_ahead)
    reader.read(order.locate(0, 1)[0])
    soon = {shard for _, shard in order.shards_ahead(0, blocks=2)}
    wait_until(lambda: {n for n, place in enumerate(places) if place.exists()} == soon)


def wait_until(arrived: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not arrived():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_fetch_that_fails_leaves_nothing_half_written(bucket: str, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, limit=1 << 20)
    with pytest.raises(UserError, match=r"memory://bucket/9\.tar: cannot be fetched"):
        cache.fetch(f"{bucket}/9.tar")
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_a_file_address_is_remote_too(tmp_path: Path) -> None:
    write_shards(tmp_path / "data", 2)
    config = DataConfig(cache_dir=str(tmp_path / "cache"))
    source = open_source(f"file://{tmp_path}/data", config)
    assert source.sizes.tolist() == [1, 2]
