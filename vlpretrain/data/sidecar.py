"""Files kept beside a shard: what was found out of it once. A JSON note and arrays, never a pickle.

Beside the shard as SHARD.tar.SUFFIX, or in the user's cache where the shard's folder can't be
written. Who reads one compares what its note says of the shard (size, time) with the shard.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np

from vlpretrain.data.remote import is_remote


@dataclass(frozen=True, slots=True)
class SidecarFormat:
    """One kind of file: magic, version u32, length of the JSON u32, JSON, arrays, CRC-32."""

    suffix: str  # with its dot
    folder: str  # in the cache
    magic: bytes
    version: int
    arrays: Mapping[str, str]  # dtypes by name, in the order of the file


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a file holds; `note` is JSON, arrays have one axis."""

    note: dict[str, Any]
    arrays: dict[str, np.ndarray]


def sidecar_places(path: str, kind: SidecarFormat, cache_dir: str = "") -> tuple[Path, Path]:
    """Where a shard's file may lie: beside it, or in the cache."""
    absolute = path if "://" in path else os.path.abspath(path)
    mark = hashlib.blake2b(absolute.encode(), digest_size=8).hexdigest()
    name = f"{os.path.basename(path)[-80:]}.{mark}{kind.suffix}"
    return Path(f"{path}{kind.suffix}"), cache_folder(cache_dir) / kind.folder / name


def cache_folder(cache_dir: str) -> Path:
    """`cache_dir`, or the user's cache where it is empty."""
    if cache_dir:
        return Path(cache_dir)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlpretrain"


def write_sidecar(place: Path, kind: SidecarFormat, content: Sidecar) -> None:
    """Writes a file whole or not at all."""
    arrays = [content.arrays[name].astype(dtype) for name, dtype in kind.arrays.items()]
    note = content.note | {"lengths": [len(array) for array in arrays]}
    text = json.dumps(note).encode()
    lead = kind.magic + np.array([kind.version, len(text)], "<u4").tobytes() + text
    body = b"".join([lead, *(array.tobytes() for array in arrays)])
    write_atomically(place, body + np.array([zlib.crc32(body)], "<u4").tobytes())


def save_sidecar(
    path: str, kind: SidecarFormat, content: Sidecar, cache_dir: str = ""
) -> Path | None:
    """Writes a shard's file where it can be written; None where nothing can be."""
    places = sidecar_places(path, kind, cache_dir)
    for place in places[1:] if is_remote(path) else places:
        with suppress(OSError):
            write_sidecar(place, kind, content)
            return place
    return None


def read_sidecar(place: Path, kind: SidecarFormat) -> Sidecar | None:
    """The file at `place`; None when it is absent, damaged, or of another kind or version."""
    try:
        body = place.read_bytes()
    except OSError:
        return None
    lead = len(kind.magic) + 8
    if len(body) < lead + 4 or not body.startswith(kind.magic):
        return None
    version, length = np.frombuffer(body, "<u4", 2, len(kind.magic)).tolist()
    checksum = int.from_bytes(body[-4:], "little")
    if version != kind.version or zlib.crc32(memoryview(body)[:-4]) != checksum:
        return None
    note = json.loads(body[lead : lead + length])
    arrays, offset = {}, lead + length
    for (name, dtype), count in zip(kind.arrays.items(), note["lengths"], strict=True):
        array = np.frombuffer(body, dtype, count, offset)
        # A copy is aligned and does not keep the file's whole body alive.
        arrays[name], offset = array.copy(), offset + array.nbytes
    return Sidecar(note, arrays)


def write_atomically(place: Path, content: bytes) -> None:
    """Writes a file under another name and renames it, so that no reader meets a part of it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = ""
    try:
        with NamedTemporaryFile(dir=place.parent, prefix=f".{place.name}.", delete=False) as file:
            temporary = file.name
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, place)
    except OSError:
        if temporary:
            os.unlink(temporary)
        raise
