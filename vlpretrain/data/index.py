"""What a shard holds and where: keys, parts, byte offsets. Made once, kept beside the shard.

N samples of a shard, M members of all its samples, K bytes of all its keys.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vlpretrain.data.sidecar import (
    Sidecar,
    SidecarFormat,
    read_sidecar,
    save_sidecar,
    sidecar_places,
    write_sidecar,
)
from vlpretrain.data.tar import FILE, FOLDER, Damage, Member, read_members
from vlpretrain.types import Skip

INDEX = SidecarFormat(
    suffix=".idx",
    folder="indexes",
    magic=b"vlpidx\r\n",
    version=1,
    arrays={
        "key_byte_K": "<u1",
        "key_start_N": "<i8",
        "part_start_N": "<i8",
        "part_offset_M": "<i8",
        "part_size_M": "<i8",
        "part_extension_M": "<u4",
    },
)
_REFUSED = (".pyd", ".pickle", ".pkl", ".pth", ".pt")  # unpickling such a member would run its code
_HEADER_READ = 1 << 14  # bytes read at each jump to a header


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The samples of one shard, in the order of their first member.

    Arrays only, about 70 bytes for a sample of three parts: sample n has the key bytes
    key_start_N[n] .. key_start_N[n + 1] and the parts part_start_N[n] .. part_start_N[n + 1].
    """

    path: str
    file_size: int  # bytes
    mtime_ns: int
    content_hash: str  # blake2b of the whole file; empty unless it was asked for
    extensions: tuple[str, ...]  # what part_extension_M counts in
    problems: tuple[Skip, ...]
    key_byte_K: np.ndarray  # uint8, UTF-8
    key_start_N: np.ndarray  # int64, N + 1 long
    part_start_N: np.ndarray  # int64, N + 1 long
    part_offset_M: np.ndarray  # int64
    part_size_M: np.ndarray  # int64
    part_extension_M: np.ndarray  # uint32

    def __len__(self) -> int:
        return len(self.key_start_N) - 1

    def key(self, row: int) -> str:
        start, end = self.key_start_N[row], self.key_start_N[row + 1]
        return self.key_byte_K[start:end].tobytes().decode()

    def parts(self, row: int) -> dict[str, tuple[int, int]]:
        """Extension -> (offset, size) in bytes, in file order."""
        first, last = self.part_start_N[row], self.part_start_N[row + 1]
        return {
            self.extensions[self.part_extension_M[part]]: (
                int(self.part_offset_M[part]),
                int(self.part_size_M[part]),
            )
            for part in range(first, last)
        }

    def keys(self) -> Iterator[str]:
        return (self.key(row) for row in range(len(self)))


def load_index(path: str, cache_dir: str = "") -> ShardIndex:
    """The shard's index, read where one fits the file's size and time, else made and kept.

    Kept as SHARD.tar.idx beside the shard, or in `cache_dir` where that cannot be written.

    Raises:
        OSError: the shard cannot be read.
    """
    index = kept_index(path, cache_dir)
    if index is None:
        index = scan_shard(path)
        save_index(index, cache_dir)
    return index


def kept_index(path: str, cache_dir: str = "") -> ShardIndex | None:
    """The index that was kept for a shard; None when there is none or the shard has changed."""
    status = os.stat(path)
    for place in index_places(path, cache_dir):
        index = read_index(place, path)
        if index and (index.file_size, index.mtime_ns) == (status.st_size, status.st_mtime_ns):
            return index
    return None


def index_places(path: str, cache_dir: str = "") -> tuple[Path, Path]:
    """Where a shard's index may lie: beside it, or in the cache."""
    return sidecar_places(path, INDEX, cache_dir)


def scan_shard(path: str, *, hash_content: bool = False) -> ShardIndex:
    """Reads every header of a shard and groups its members by key.

    Damage costs the samples it touches, each told in `problems`, never a neighbour's caption.

    Args:
        path: a local tar.
        hash_content: also hash the whole file, for `content_matches`.

    Raises:
        OSError: the shard cannot be read.
    """
    with open(path, "rb", buffering=_HEADER_READ) as file:
        status = os.fstat(file.fileno())
        groups = _Groups(path)
        magic = file.read(4)
        if not magic:
            groups.report("", "the file is empty (0 bytes): not a tar")
        elif magic[:2] == b"\x1f\x8b" or magic == b"\x28\xb5\x2f\xfd":
            groups.report("", "the file is compressed; a shard must be a plain tar")
        else:
            groups.read(read_members(file, status.st_size))
    content_hash = hash_file(path) if hash_content else ""
    return _pack(groups, status, content_hash)


def hash_file(path: str) -> str:
    """blake2b of a file's whole content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def content_matches(index: ShardIndex) -> bool:
    """True when the shard's bytes are those that were hashed; reads the whole file."""
    return hash_file(index.path) == index.content_hash


@dataclass(slots=True)
class _Row:
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)
    doubt: str = ""  # the damage that this sample stands beside


class _Groups:
    """Groups members by key as they come. A run is a stretch of members of one key."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.rows: dict[str, _Row] = {}
        self.problems: list[Skip] = []
        self.run_key = ""
        self.run = _Row()
        self.doubt = ""  # the last damage, until a sample after it has begun
        self.damaged = ""
        self.scattered = False  # some sample's members do not stand together

    def report(self, key: str, reason: str) -> None:
        self.problems.append(Skip(self.path, key, reason))

    def read(self, events: Iterator[Member | Damage]) -> None:
        for event in events:
            if isinstance(event, Damage):
                self._damage(event)
            else:
                self._member(event)
        self._close_run()
        self._drop_incomplete()

    def _member(self, member: Member) -> None:
        key, extension = split_name(member.name)
        if member.kind == FOLDER or _is_note(member.name):
            return
        if member.kind != FILE:
            self.report(key, f"{member.name!r} is a {member.kind}, not a file: left out")
        elif not key or not extension:
            self.report(key, f"{member.name!r} has no key or no extension: left out")
        elif f".{extension}".endswith(_REFUSED):
            self.report(key, f"{member.name!r} may hold code (pickle): refused")
        else:
            self._add(key, extension, member)

    def _add(self, key: str, extension: str, member: Member) -> None:
        if key != self.run_key:
            self._close_run()
            self.run_key, self.run, self.doubt = key, _Row(doubt=self.doubt), ""
        if extension in self.run.parts:
            self.report(key, f"{member.name!r} comes twice: the first is kept")
        else:
            self.run.parts[extension] = (member.offset, member.size)

    def _close_run(self) -> None:
        key, run = self.run_key, self.run
        self.run_key, self.run = "", _Row()
        if not run.parts:
            return
        row = self.rows.setdefault(key, run)
        if row is run:
            return
        twice = sorted(row.parts.keys() & run.parts.keys())
        if twice:
            # Its other parts belong to the second sample: joined to the first, they would mispair.
            self.report(key, f"key comes again with {', '.join(twice)}: the first is kept")
        else:
            self.scattered = self.scattered or not run.doubt
            row.parts.update(run.parts)
            row.doubt = row.doubt or run.doubt

    def _damage(self, damage: Damage) -> None:
        key, _ = split_name(damage.name)
        self.damaged = damage.reason
        if damage.shifted and self.run.parts:
            self.run.parts.popitem()
        if damage.cut:
            self._drop_last(key, damage.reason)
        else:
            self.report(key, damage.reason)
        self.run.doubt = self.doubt = damage.reason
        self._close_run()
        if key in self.rows:
            self.rows[key].doubt = damage.reason

    def _drop_last(self, cut_key: str, reason: str) -> None:
        """Drops what a cut file ends in: unless another key follows, it cannot be shown whole."""
        lost = cut_key or self.run_key
        if lost == self.run_key:
            self.run_key, self.run = "", _Row()
        self.rows.pop(lost, None)
        self.report(lost, f"sample lost, {reason}" if lost else reason)

    def _drop_incomplete(self) -> None:
        """Drops samples beside a damage that lack a part that undamaged samples have."""
        if not self.damaged:
            return
        if self.scattered:
            for row in self.rows.values():
                row.doubt = row.doubt or self.damaged
        sure = [row for row in self.rows.values() if not row.doubt] or list(self.rows.values())
        usual = {extension for row in sure for extension in row.parts}
        for key, row in list(self.rows.items()):
            missing = sorted(usual - row.parts.keys())
            if row.doubt and missing:
                del self.rows[key]
                self.report(key, f"sample lost, {', '.join(missing)} missing beside: {row.doubt}")


def split_name(name: str) -> tuple[str, str]:
    """A member's key (path up to the first dot of the base name) and its extension, lower case."""
    while name.startswith("./"):
        name = name[2:]
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (folder + slash + stem if stem else ""), extension.lower()


def _is_note(name: str) -> bool:
    """True for webdataset's own notes (__worker__ and the like), which belong to no sample."""
    base = name.rpartition("/")[2]
    return base.startswith("__") and base.endswith("__")


def _pack(groups: _Groups, status: os.stat_result, content_hash: str) -> ShardIndex:
    rows = groups.rows
    keys = [key.encode() for key in rows]
    parts = [(ext, *place) for row in rows.values() for ext, place in row.parts.items()]
    extensions = tuple(sorted({ext for ext, _, _ in parts}))
    codes = {ext: code for code, ext in enumerate(extensions)}
    return ShardIndex(
        path=groups.path,
        file_size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        content_hash=content_hash,
        extensions=extensions,
        problems=tuple(groups.problems),
        key_byte_K=np.frombuffer(b"".join(keys), np.uint8),
        key_start_N=_starts([len(key) for key in keys]),
        part_start_N=_starts([len(row.parts) for row in rows.values()]),
        part_offset_M=np.array([offset for _, offset, _ in parts], np.int64),
        part_size_M=np.array([size for _, _, size in parts], np.int64),
        part_extension_M=np.array([codes[ext] for ext, _, _ in parts], np.uint32),
    )


def _starts(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def save_index(index: ShardIndex, cache_dir: str = "") -> Path | None:
    """Writes the index where it can be written; None where nothing can be."""
    return save_sidecar(index.path, INDEX, _as_sidecar(index), cache_dir)


def write_index(index: ShardIndex, place: Path) -> None:
    """Writes an index file whole or not at all."""
    write_sidecar(place, INDEX, _as_sidecar(index))


def read_index(place: Path, path: str) -> ShardIndex | None:
    """The index file at `place`, for the shard at `path`; None when absent, damaged or foreign."""
    found = read_sidecar(place, INDEX)
    if found is None:
        return None
    note = found.note
    return ShardIndex(
        path=path,
        file_size=note["file_size"],
        mtime_ns=note["mtime_ns"],
        content_hash=note["content_hash"],
        extensions=tuple(note["extensions"]),
        problems=tuple(Skip(path, key, reason) for key, reason in note["problems"]),
        **found.arrays,
    )


def _as_sidecar(index: ShardIndex) -> Sidecar:
    note = {
        "file_size": index.file_size,
        "mtime_ns": index.mtime_ns,
        "content_hash": index.content_hash,
        "extensions": index.extensions,
        "problems": [(skip.key, skip.reason) for skip in index.problems],
    }
    return Sidecar(note, {name: getattr(index, name) for name in INDEX.arrays})
