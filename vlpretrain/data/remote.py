"""Local copies of remote shards: fetched once, ahead of their use, held under a size."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import fsspec

from vlpretrain.errors import UserError

PIPE = "pipe:"
_ATTEMPTS = 3
_Result = TypeVar("_Result")
# What a file system may tell of a file's version, the surest first.
_VERSION_FIELDS = ("ETag", "etag", "md5", "mtime", "LastModified", "last_modified", "created")


def is_remote(path: str) -> bool:
    return "://" in path or path.startswith(PIPE)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What an address says of its file without opening it. Unknown to a pipe: both -1."""

    size: int  # bytes
    version: int  # changes when the file does, as far as the file system tells


def remote_file(url: str) -> RemoteFile:
    """Size and version of a remote shard.

    Raises:
        UserError: the address cannot be reached.
    """
    if url.startswith(PIPE):
        return RemoteFile(-1, -1)
    with readable_failure(url):
        filesystem, path = fsspec.core.url_to_fs(url)
        info: dict[str, Any] = filesystem.info(path)
    version = next((str(info[name]) for name in _VERSION_FIELDS if info.get(name)), "")
    size = info.get("size")
    return RemoteFile(-1 if size is None else int(size), _hash_63(version))


@contextmanager
def readable_failure(url: str) -> Iterator[None]:
    """Turns whatever a file system raises into a UserError that names the address."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # every fsspec driver has exceptions of its own
        reason = str(error) or type(error).__name__
        raise UserError(
            f"cannot be fetched: {reason}",
            where=url,
            fix="check the address, the network, the credentials, and the space in data.cache_dir",
        ) from error


class ShardCache:
    """A folder of local copies, the least recently used deleted first.

    Several processes may share the folder: a copy is written under another name and renamed, and a
    lock lets one of them fetch a shard while the others wait for it.

    Args:
        folder: where the copies lie.
        limit: bytes that the copies may take together (one shard may always stay).
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._ahead: SimpleQueue[str] | None = None
        self._queued: set[str] = set()
        self._owner = 0  # the process whose thread serves _ahead: threads do not survive a fork

    def __getstate__(self) -> tuple[Path, int]:
        return self.folder, self.limit

    def __setstate__(self, state: tuple[Path, int]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def place(self, url: str) -> Path:
        """Where the local copy of an address lies or would lie."""
        mark = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
        name = url.rstrip("/").rpartition("/")[2][-80:].replace("?", "_")
        return self.folder / f"{mark}-{name}"

    def fetch(self, url: str) -> Path:
        """The local copy, fetched now if it is absent.

        Raises:
            UserError: the shard cannot be fetched.
        """
        place = self.place(url)
        if not _touch(place):
            with readable_failure(url):
                place.parent.mkdir(parents=True, exist_ok=True)
                with _locked(place.with_name(f".{place.name}.lock")):
                    # Another process may have fetched it while this one waited.
                    if not _touch(place):
                        _download(url, place)
                        self._evict(keep=place)
        return place

    def using(self, url: str, action: Callable[[str], _Result]) -> _Result:
        """Calls `action` with the local copy's path, again if another process deletes it meanwhile.

        Raises:
            UserError: the shard cannot be fetched, or the cache is too small to keep it.
        """
        for _ in range(_ATTEMPTS):
            path = self.fetch(url)
            with suppress(FileNotFoundError):
                return action(str(path))
        raise UserError(
            f"deleted from the cache of {self.limit} bytes before it could be read",
            where=url,
            fix="set data.cache_gigabytes higher",
        )

    def forget(self, url: str) -> None:
        """Deletes a copy that no longer equals its remote file."""
        self.place(url).unlink(missing_ok=True)

    def fetch_ahead(self, urls: Iterable[str]) -> None:
        """Fetches addresses one after the other in a thread; a failure is left to `fetch`."""
        if self._ahead is None or self._owner != os.getpid():
            self._ahead, self._queued, self._owner = SimpleQueue(), set(), os.getpid()
            thread = threading.Thread(target=self._serve, args=(self._ahead,), daemon=True)
            thread.start()
        for url in urls:
            if url not in self._queued:
                self._queued.add(url)
                self._ahead.put(url)

    def _serve(self, queue: SimpleQueue[str]) -> None:
        while True:
            url = queue.get()
            with suppress(UserError):
                self.fetch(url)
            self._queued.discard(url)

    def _evict(self, keep: Path) -> None:
        copies = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                if not path.name.startswith(".") and path.is_file():
                    copies.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies):
            if total <= self.limit:
                return
            if path != keep:
                # A process that has it open goes on reading: the file itself lives until then.
                path.unlink(missing_ok=True)
                total -= size


def _download(url: str, place: Path) -> None:
    temporary = place.with_name(f".{place.name}.part")
    try:
        with open(temporary, "wb") as target:
            if url.startswith(PIPE):
                # Reached only where the config's allow_unsafe names the danger.
                command = url.removeprefix(PIPE)
                subprocess.run(command, shell=True, check=True, stdout=target)
            else:
                with fsspec.open(url, "rb") as source:
                    shutil.copyfileobj(source, target, 1 << 20)
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def _touch(place: Path) -> bool:
    """Marks a copy as used just now; False when there is none."""
    try:
        os.utime(place)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    with open(place, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _hash_63(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
