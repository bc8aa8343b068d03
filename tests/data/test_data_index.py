"""A shard's index holds exactly its whole samples, whatever was done to the tar."""

import io
import os
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from vlpretrain.data import index as shard_index
from vlpretrain.data.index import (
    ShardIndex,
    content_matches,
    index_places,
    load_index,
    read_index,
    scan_shard,
    split_name,
)

Samples = dict[str, dict[str, bytes]]


def make_tar(members: list[tuple[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def members_of(samples: Samples) -> list[tuple[str, bytes]]:
    return [(f"{key}.{ext}", body) for key, parts in samples.items() for ext, body in parts.items()]


def captioned(count: int, size: int = 700) -> Samples:
    return {
        f"{i:04d}": {"jpg": bytes([i % 251]) * size, "txt": f"caption {i}".encode(), "json": b"{}"}
        for i in range(count)
    }


def scan(folder: Path, content: bytes) -> ShardIndex:
    path = folder / "shard.tar"
    path.write_bytes(content)
    return scan_shard(str(path))


def read_all(index: ShardIndex) -> Samples:
    content = Path(index.path).read_bytes()
    return {
        index.key(row): {
            ext: content[offset : offset + size] for ext, (offset, size) in index.parts(row).items()
        }
        for row in range(len(index))
    }


def reasons(index: ShardIndex) -> str:
    return "\n".join(f"{skip.key}: {skip.reason}" for skip in index.problems)


FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.mark.parametrize("tar_format", FORMATS)
def test_whole_tar_gives_every_sample_in_file_order(tmp_path: Path, tar_format: int) -> None:
    samples = captioned(5)
    index = scan(tmp_path, make_tar(members_of(samples), tar_format))
    assert read_all(index) == samples
    assert list(index.keys()) == list(samples)
    assert index.problems == ()


def test_names_beyond_the_header_field(tmp_path: Path) -> None:
    # 100 bytes fit a ustar name: longer ones stand in a GNU or pax header of their own.
    samples = {f"{'folder' * 30}/ключ{i}": {"jpg": b"x" * i, "txt": b"y"} for i in range(3)}
    for tar_format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        index = scan(tmp_path, make_tar(members_of(samples), tar_format))
        assert read_all(index) == samples
        assert index.problems == ()


def test_pax_size_rules_over_the_header(tmp_path: Path) -> None:
    body = b"p" * 1500
    header = tarfile.TarInfo("big.jpg")
    header.size = len(body)
    info = header.get_info()
    info["size"] = 0
    record = header._create_pax_generic_header({"size": str(len(body))}, tarfile.XHDTYPE, "utf-8")
    plain = tarfile.TarInfo._create_header(info, tarfile.USTAR_FORMAT, "ascii", "strict")
    content = record + plain + body.ljust(1536, b"\0") + make_tar([("big.txt", b"text")])
    assert read_all(scan(tmp_path, content)) == {"big": {"jpg": body, "txt": b"text"}}


@pytest.mark.parametrize("tar_format", FORMATS)
def test_cut_at_any_byte_gives_only_whole_samples(tmp_path: Path, tar_format: int) -> None:
    samples: Samples = {
        "a": {"jpg": b"1" * 600},
        "folder/" + "b" * 110: {"jpg": b"2" * 10, "txt": b""},
        "c": {"jpg": b"3" * 512, "txt": b"three", "json": b"{}"},
    }
    if tar_format == tarfile.USTAR_FORMAT:
        samples["folder/b"] = samples.pop("folder/" + "b" * 110)
    content = make_tar(members_of(samples), tar_format)
    end = len(content.rstrip(b"\0")) + 512
    # Around every block's border each byte, within blocks every 61st.
    cuts = [cut for cut in range(end) if cut % 512 < 3 or cut % 512 > 509 or cut % 61 == 0]
    for cut in cuts:
        index = scan(tmp_path, content[:cut])
        found = read_all(index)
        assert all(samples[key] == parts for key, parts in found.items()), cut
        assert len(found) == len(samples) or index.problems, cut
        assert all(skip.shard == index.path and skip.reason for skip in index.problems)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_cut_of_any_tar_gives_only_whole_samples(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    extensions = st.lists(st.sampled_from(["jpg", "txt", "json"]), min_size=1, unique=True)
    layout = data.draw(st.lists(extensions, min_size=1, max_size=5))
    samples = {
        f"k{i}": {ext: f"{i}{ext}".encode() * 99 for ext in exts} for i, exts in enumerate(layout)
    }
    content = make_tar(members_of(samples))
    cut = data.draw(st.integers(0, len(content)))
    index = scan(tmp_path_factory.mktemp("cut"), content[:cut])
    found = read_all(index)
    assert all(samples[key] == parts for key, parts in found.items())
    assert len(found) == len(samples) or index.problems


def test_cut_sample_is_reported_by_key_and_the_ones_before_are_kept(tmp_path: Path) -> None:
    samples = captioned(10)
    content = make_tar(members_of(samples))
    index = scan(tmp_path, content[: content.index(b"0007.txt") + 512 + 3])
    assert list(index.keys()) == list(samples)[:7]
    assert [skip.key for skip in index.problems] == ["0007"]
    assert "cut" in index.problems[0].reason


@pytest.mark.parametrize("extension", ["jpg", "txt", "json"])
@pytest.mark.parametrize("damage", ["bits", "zeros"])
def test_one_broken_header_costs_one_sample(tmp_path: Path, extension: str, damage: str) -> None:
    samples = captioned(100)
    content = bytearray(make_tar(members_of(samples)))
    place = content.index(f"0004.{extension}".encode())
    if damage == "bits":
        content[place + 110] ^= 0xFF
    else:
        content[place : place + 512] = bytes(512)
    index = scan(tmp_path, bytes(content))
    del samples["0004"]
    assert read_all(index) == samples
    told = reasons(index)
    assert f"broken header at byte {place}, reading resumed at byte" in told
    assert extension == "jpg" or f"0004: sample lost, {extension} missing" in told


def test_webdataset_loses_95_of_100_where_the_index_loses_one(tmp_path: Path) -> None:
    samples = captioned(100)
    content = bytearray(make_tar(members_of(samples)))
    content[content.index(b"0005.jpg") + 110] ^= 0xFF
    index = scan(tmp_path, bytes(content))
    theirs = webdataset.WebDataset(
        index.path, shardshuffle=False, empty_check=False, handler=webdataset.ignore_and_continue
    )
    assert len(list(theirs)) == 5
    assert len(index) == 99


def test_webdataset_pairs_across_a_cut_where_the_index_does_not(tmp_path: Path) -> None:
    # The first shard is cut inside the caption of x; the next begins with a sample of that key.
    first, second = tmp_path / "0.tar", tmp_path / "1.tar"
    whole = make_tar([("a.jpg", b"A"), ("a.txt", b"a"), ("x.jpg", b"X"), ("x.txt", b"x" * 600)])
    first.write_bytes(whole[: whole.index(b"x.txt") + 700])
    second.write_bytes(make_tar([("x.txt", b"of another picture"), ("y.jpg", b"Y")]))
    theirs = webdataset.WebDataset(
        [str(first), str(second)],
        shardshuffle=False,
        empty_check=False,
        handler=webdataset.ignore_and_continue,
    )
    mixed = [sample for sample in theirs if sample.get("txt") == b"of another picture"]
    assert mixed[0]["jpg"] == b"X"
    indexes = [scan_shard(str(path)) for path in (first, second)]
    assert read_all(indexes[0]) == {"a": {"jpg": b"A", "txt": b"a"}}
    assert read_all(indexes[1]) == {"x": {"txt": b"of another picture"}, "y": {"jpg": b"Y"}}
    assert [skip.key for skip in indexes[0].problems] == ["x"]


def test_lost_bytes_do_not_stop_recovery(tmp_path: Path) -> None:
    # 100 bytes gone: every later header is out of step with the blocks of 512.
    samples = captioned(20)
    content = make_tar(members_of(samples))
    inside = content.index(b"0004.jpg") + 600
    found = read_all(scan(tmp_path, content[:inside] + content[inside + 100 :]))
    assert all(samples[key] == parts for key, parts in found.items())
    assert len(found) >= 18


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_no_shortened_name_after_a_lost_long_name(tmp_path: Path, tar_format: int) -> None:
    samples = {f"{'n' * 120}{i}": {"jpg": b"%d" % i, "txt": b"t%d" % i} for i in range(6)}
    content = bytearray(make_tar(members_of(samples), tar_format))
    headers = [i for i in range(0, len(content), 512) if content[i + 257 : i + 262] == b"ustar"]
    for header in headers:
        broken = bytearray(content)
        broken[header + 110] ^= 0xFF
        found = read_all(scan(tmp_path, bytes(broken)))
        assert all(samples.get(key) == parts for key, parts in found.items())
        assert len(found) >= 4


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_arbitrary_damage_never_raises_nor_points_outside_the_file(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(make_tar(members_of(captioned(4)), data.draw(st.sampled_from(FORMATS))))
    start = data.draw(st.integers(0, len(content)))
    content[start : start + data.draw(st.integers(0, 1500))] = data.draw(st.binary(max_size=1500))
    index = scan(tmp_path_factory.mktemp("damage"), bytes(content))
    for row in range(len(index)):
        for offset, size in index.parts(row).values():
            assert 0 <= offset <= offset + size <= index.file_size


def test_empty_tar_and_zero_byte_members(tmp_path: Path) -> None:
    assert len(scan(tmp_path, make_tar([]))) == 0
    assert scan(tmp_path, make_tar([])).problems == ()
    index = scan(tmp_path, make_tar([("a.jpg", b""), ("a.txt", b""), ("b.jpg", b"b")]))
    assert read_all(index) == {"a": {"jpg": b"", "txt": b""}, "b": {"jpg": b"b"}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty (0 bytes)"),
        (b"<html>404 not found</html>" * 100, "broken header at byte 0"),
        (b"\x1f\x8b" + bytes(2000), "compressed"),
    ],
)
def test_what_is_no_tar_is_told(tmp_path: Path, content: bytes, reason: str) -> None:
    index = scan(tmp_path, content)
    assert len(index) == 0
    assert reason in reasons(index)


def test_duplicates_are_reported_and_the_first_kept(tmp_path: Path) -> None:
    members = [("a.jpg", b"1"), ("a.jpg", b"2"), ("a.txt", b"1"), ("b.jpg", b"b")]
    index = scan(tmp_path, make_tar([*members, ("a.txt", b"3"), ("a.json", b"of another")]))
    assert read_all(index) == {"a": {"jpg": b"1", "txt": b"1"}, "b": {"jpg": b"b"}}
    assert [skip.key for skip in index.problems] == ["a", "a"]


def test_members_that_stand_apart_are_joined(tmp_path: Path) -> None:
    members = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"3"), ("b.txt", b"4")]
    index = scan(tmp_path, make_tar(members))
    assert read_all(index) == {"a": {"jpg": b"1", "txt": b"3"}, "b": {"jpg": b"2", "txt": b"4"}}


@pytest.mark.parametrize("extension", ["pyd", "pickle", "pkl", "pth", "pt", "x.PKL"])
def test_pickles_are_refused(tmp_path: Path, extension: str) -> None:
    index = scan(tmp_path, make_tar([("a.jpg", b"1"), (f"a.{extension}", b"cos\nsystem\n")]))
    assert read_all(index) == {"a": {"jpg": b"1"}}
    assert "refused" in reasons(index)


def test_links_devices_and_folders_are_left_out(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        kinds = {"d": tarfile.DIRTYPE, "l.jpg": tarfile.SYMTYPE, "h.jpg": tarfile.LNKTYPE}
        for name, kind in {**kinds, "p.jpg": tarfile.FIFOTYPE, "c.jpg": tarfile.CHRTYPE}.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("d/a.jpg"))
    index = scan(tmp_path, buffer.getvalue())
    assert list(index.keys()) == ["d/a"]
    assert {skip.key for skip in index.problems} == {"l", "h", "p", "c"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("000000012.jpg", ("000000012", "jpg")),
        ("./a.b/c.d.JPG", ("a.b/c", "d.jpg")),
        ("a/._b.jpg", ("", "_b.jpg")),
        ("README", ("README", "")),
    ],
)
def test_key_is_the_path_up_to_the_first_dot(name: str, expected: tuple[str, str]) -> None:
    assert split_name(name) == expected


def test_index_is_kept_read_back_and_renewed_when_the_shard_changes(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(make_tar([*members_of(captioned(3)), ("a.pkl", b"")]))
    made = load_index(str(path))
    kept = read_index(Path(f"{path}.idx"), str(path))
    assert kept is not None
    assert read_all(kept) == read_all(made)
    assert kept.problems == made.problems != ()
    status = path.stat()
    path.write_bytes(make_tar(members_of(captioned(2))).ljust(status.st_size, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert len(load_index(str(path))) == 2


@pytest.mark.parametrize("position", [0, 9, 30, -1])
def test_damaged_or_foreign_index_file_is_made_anew(tmp_path: Path, position: int) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(make_tar(members_of(captioned(3))))
    load_index(str(path))
    kept = bytearray(Path(f"{path}.idx").read_bytes())
    kept[position] ^= 0xFF
    Path(f"{path}.idx").write_bytes(kept)
    assert read_index(Path(f"{path}.idx"), str(path)) is None
    assert len(load_index(str(path))) == 3


def test_index_goes_to_the_cache_where_the_folder_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data" / "s.tar"
    path.parent.mkdir()
    path.write_bytes(make_tar(members_of(captioned(3))))
    # A folder of the index file's name: unlike permissions, it also stops root.
    Path(f"{path}.idx").mkdir()
    cache = str(tmp_path / "cache")
    load_index(str(path), cache)
    assert index_places(str(path), cache)[1].is_file()
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["s.tar", "s.tar.idx"]
    monkeypatch.setattr(shard_index, "scan_shard", None)
    assert len(load_index(str(path), cache)) == 3


def test_content_hash_finds_a_change_that_size_and_time_hide(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    content = make_tar(members_of(captioned(3)))
    path.write_bytes(content)
    index = scan_shard(str(path), hash_content=True)
    assert content_matches(index)
    path.write_bytes(content.replace(b"caption 1", b"caption X"))
    assert not content_matches(index)


def test_webdatasets_writer_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "s.tar")
    with webdataset.TarWriter(path) as writer:
        for i in range(3):
            writer.write({"__key__": f"{i:03d}", "jpg": b"x" * i, "txt": f"t{i}"})
    index = scan_shard(path)
    assert read_all(index) == {
        f"{i:03d}": {"jpg": b"x" * i, "txt": f"t{i}".encode()} for i in range(3)
    }
    assert index.problems == ()
