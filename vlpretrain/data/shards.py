"""From what a user names to indexed shards."""

from __future__ import annotations

import glob
import json
import multiprocessing
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
from braceexpand import braceexpand

from vlpretrain.config.schema import DataConfig
from vlpretrain.data.index import (
    ShardIndex,
    index_places,
    kept_index,
    load_index,
    read_index,
    scan_shard,
    write_index,
)
from vlpretrain.data.remote import (
    PIPE,
    ShardCache,
    is_remote,
    readable_failure,
    remote_file,
)
from vlpretrain.data.sidecar import cache_folder
from vlpretrain.errors import UserError
from vlpretrain.types import Skip

_MANIFEST = ".json"
_LISTS = (".txt", ".list", ".lst", _MANIFEST)
_SHOWN = 3  # names in a message
_READERS = 16  # threads that read index files; at most as many processes that make them
_FETCHERS = 4  # threads that fetch remote shards to index them
_PROGRESS_FROM = 16  # shards; fewer are indexed in silence


@dataclass(frozen=True, eq=False)
class Source:
    """One entry of data.train or data.val: its shards, indexed."""

    spec: str
    shards: Sequence[ShardIndex]
    cache: ShardCache | None = None  # where the local copies of remote shards lie
    sizes: np.ndarray = field(init=False)  # samples of each shard, int64

    def __post_init__(self) -> None:
        sizes = np.array([len(shard) for shard in self.shards], np.int64)
        object.__setattr__(self, "sizes", sizes)

    @property
    def problems(self) -> list[Skip]:
        """What the indexes could not use, of all shards."""
        return [problem for shard in self.shards for problem in shard.problems]

    def open_shard(self, shard: int) -> int:
        """A file descriptor of the shard, fetched first if it is remote.

        Raises:
            UserError: the shard cannot be opened or fetched.
        """
        path = self.shards[shard].path
        if self.cache is not None and is_remote(path):
            return self.cache.using(path, _open_for_reading)
        with _readable([path]):
            return _open_for_reading(path)

    def fetch_ahead(self, shards: Iterable[int]) -> None:
        """Has remote shards fetched in the background; nothing for local ones."""
        if self.cache is not None:
            paths = (self.shards[shard].path for shard in shards)
            self.cache.fetch_ahead(path for path in paths if is_remote(path))


def _open_for_reading(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def open_source(spec: str, data: DataConfig) -> Source:
    """Finds the shards of one entry and their indexes; makes the indexes that are missing.

    Raises:
        UserError: no shard is found, one cannot be read, or the entry would run a command.
    """
    paths = resolve_shards(spec, allow_unsafe=data.allow_unsafe)
    cache = ShardCache(
        cache_folder(data.cache_dir) / "shards", int(data.cache_gigabytes * 1_000_000_000)
    )
    local = [path for path in paths if not is_remote(path)]
    distant = [path for path in paths if is_remote(path)]
    found = _index_local(local, data.cache_dir)
    with ThreadPoolExecutor(_FETCHERS) as pool:
        found |= _gather(pool, partial(_remote_index, data.cache_dir, cache), distant)
    return Source(spec, [found[path] for path in paths], cache if distant else None)


def resolve_shards(spec: str, *, allow_unsafe: bool = False) -> list[str]:
    """The shards that an entry names, sorted as the entry orders them.

    A folder (its *.tar files), a pattern with braces ({0000..0099}) or wildcards, one .tar, a text
    file with an entry a line, a JSON manifest (a list of entries, or webdataset's "shardlist"), or
    a remote address that fsspec opens: folder, pattern or file.

    Raises:
        UserError: nothing is found, or `spec` is a `pipe:` and `allow_unsafe` is off.
    """
    if spec.startswith(PIPE):
        return [_checked_pipe(spec, allow_unsafe)]
    if is_remote(spec):
        return _resolve_remote(spec)
    path = os.path.expanduser(spec)
    if os.path.isdir(path):
        return _tars_in(path)
    if os.path.isfile(path) and path.endswith(_LISTS):
        return _read_list(path, allow_unsafe)
    return _resolve_pattern(path)


def _checked_pipe(spec: str, allow_unsafe: bool) -> str:
    if not allow_unsafe:
        raise UserError(
            "the address runs a shell command: refused",
            where=spec,
            fix="download the shards first; or, if you trust the command, set data.allow_unsafe",
        )
    return spec


def _tars_in(folder: str) -> list[str]:
    tars = sorted(glob.glob(os.path.join(glob.escape(folder), "*.tar")))
    if tars:
        return tars
    below = sorted({str(tar.parent) for tar in Path(folder).glob("*/*.tar")})
    packed = glob.glob(os.path.join(glob.escape(folder), "*.tar.gz"))
    fix = (
        "make shards with `python -m data_tools make`, or name the folder that holds the .tar files"
    )
    if below:
        fix = f"name the folder that holds the .tar files: {', '.join(below[:_SHOWN])}"
    elif packed:
        fix = f"unpack the {len(packed)} compressed shards (gunzip *.tar.gz)"
    raise UserError("no shards: the folder holds no *.tar file", where=folder, fix=fix)


def _read_list(path: str, allow_unsafe: bool) -> list[str]:
    folder = os.path.dirname(os.path.abspath(path))
    shards: list[str] = []
    for entry in _manifest_entries(path) if path.endswith(_MANIFEST) else _listed_entries(path):
        if entry.endswith(_LISTS):
            raise UserError("a list cannot hold a list", where=f"{path}: {entry}")
        distant = is_remote(entry)
        full = entry if distant else os.path.join(folder, os.path.expanduser(entry))
        shards += resolve_shards(full, allow_unsafe=allow_unsafe)
    if not shards:
        raise UserError("no shards: the list is empty", where=path, fix="one shard an entry")
    return shards


def _listed_entries(path: str) -> list[str]:
    lines = Path(path).read_text("utf-8", "surrogateescape").splitlines()
    entries = [line.strip() for line in lines]
    return [entry for entry in entries if entry and not entry.startswith("#")]


def _manifest_entries(path: str) -> list[str]:
    """["a.tar", ...], or webdataset's form: {"shardlist": [{"url": "a.tar"}, ...]}."""
    fix = 'a JSON list of shards, or {"shardlist": [{"url": "a.tar"}, ...]}'
    try:
        content = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise UserError(f"the manifest is not JSON: {error}", where=path, fix=fix) from error
    listed = content.get("shardlist") if isinstance(content, dict) else content
    if not isinstance(listed, list):
        raise UserError("the manifest lists no shards", where=path, fix=fix)
    entries: list[str] = []
    for item in listed:
        entry = item.get("url") if isinstance(item, dict) else item
        if not isinstance(entry, str):
            named = json.dumps(item)[:80]
            raise UserError(f"not a shard's name: {named}", where=path, fix=fix)
        entries.append(entry)
    return entries


def _resolve_pattern(spec: str) -> list[str]:
    names = _expand(spec)
    found = [path for name in names for path in _existing(name)]
    absent = [name for name in names if not _existing(name)]
    if absent:
        shown = ", ".join(absent[:_SHOWN]) + (", ..." if len(absent) > _SHOWN else "")
        raise UserError(
            f"{len(absent)} of {len(names)} shards not found: {shown}",
            where=spec,
            fix="give a folder of .tar files, a brace pattern of existing files, one .tar file, a "
            "text file that lists shards, or an address like s3://bucket/folder",
        )
    wrong = [path for path in found if not path.endswith(".tar")]
    if wrong:
        raise UserError(
            "not a .tar file", where=wrong[0], fix="shards are plain, unpacked .tar files"
        )
    return found


def _existing(name: str) -> list[str]:
    if os.path.isfile(name):
        return [name]
    return sorted(glob.glob(name)) if glob.has_magic(name) else []


def _expand(spec: str) -> list[str]:
    try:
        return list(braceexpand(spec))
    except ValueError as error:
        raise UserError("unbalanced braces", where=spec, fix="as in {00000..00099}.tar") from error


def _resolve_remote(spec: str) -> list[str]:
    shards = [shard for name in _expand(spec) for shard in _list_remote(name)]
    if not shards:
        fix = "check the address; a folder's shards end in .tar"
        raise UserError("no shards: no *.tar file at the address", where=spec, fix=fix)
    return shards


def _list_remote(name: str) -> list[str]:
    if "*" not in name and name.endswith(".tar"):
        return [name]
    pattern = name if "*" in name else f"{name.rstrip('/')}/*.tar"
    with readable_failure(name):
        filesystem, path = fsspec.core.url_to_fs(pattern)
        return sorted(filesystem.unstrip_protocol(found) for found in filesystem.glob(path))


def _index_local(paths: Sequence[str], cache_dir: str) -> dict[str, ShardIndex]:
    keep = partial(kept_index, cache_dir=cache_dir)
    with _readable(paths), ThreadPoolExecutor(_READERS) as pool:
        kept = dict(zip(paths, pool.map(keep, paths), strict=True))
    found = {path: index for path, index in kept.items() if index is not None}
    missing = [path for path in paths if path not in found]
    # Each rank in its own order: it finds kept what others have made, so that they share the work.
    random.Random(os.getpid()).shuffle(missing)
    with _readable(missing), _scanners(len(missing)) as pool:
        return found | _gather(pool, partial(load_index, cache_dir=cache_dir), missing)


@contextmanager
def _readable(paths: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or (paths[0] if paths else "")
        raise UserError(f"cannot be read: {error.strerror}", where=where) from error


def _scanners(count: int) -> Executor:
    """Processes for many shards: parsing headers is bound by Python, not by the disk."""
    workers = min(count, _usable_cores(), _READERS)
    if count < _PROGRESS_FROM or workers < 2:
        return ThreadPoolExecutor(1)
    # Forked, as the loader's workers are: nothing to import again, no guard in the user's script.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("fork"))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gather(
    pool: Executor, index: Callable[[str], ShardIndex], paths: Sequence[str]
) -> dict[str, ShardIndex]:
    """Indexes shards in parallel and says on one line how far it is."""
    paths = list(dict.fromkeys(paths))
    found: dict[str, ShardIndex] = {}
    waiting = {pool.submit(index, path): path for path in paths}
    try:
        for future in as_completed(waiting):
            found[waiting[future]] = future.result()
            _show_progress(len(found), len(paths))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return found


def _show_progress(done: int, total: int) -> None:
    if total < _PROGRESS_FROM:
        return
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\rindexing shards: {done} of {total}", end=end, file=sys.stderr, flush=True)
    elif done * 10 // total > (done - 1) * 10 // total:
        print(f"indexing shards: {done} of {total}", file=sys.stderr, flush=True)


def _remote_index(cache_dir: str, cache: ShardCache, url: str) -> ShardIndex:
    """The index of a remote shard, kept in the cache; the shard is fetched to make it."""
    told = remote_file(url)
    _, place = index_places(url, cache_dir)
    index = read_index(place, url)
    if index and told.size >= 0 and (index.file_size, index.mtime_ns) == (told.size, told.version):
        return index
    cache.forget(url)  # a copy from before the remote file changed
    index = cache.using(url, scan_shard)
    problems = tuple(replace(skip, shard=url) for skip in index.problems)
    index = replace(index, path=url, file_size=told.size, mtime_ns=told.version, problems=problems)
    with suppress(OSError):
        write_index(index, place)
    return index
