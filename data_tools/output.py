"""Shards on disk: a whole folder of them or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

from webdataset.writer import TarWriter

from vlpretrain.errors import UserError

# What a folder may hold that --overwrite replaces.
SHARD_FILES = (".tar", ".idx", ".fpr")

# A sample as webdataset's writer takes it: "__key__", and bytes by extension.
TarSample = dict[str, str | bytes]


@contextmanager
def new_folder(
    out: Path, *, overwrite: bool, replaceable: tuple[str, ...] = SHARD_FILES
) -> Iterator[Path]:
    """Gives a working folder that becomes `out` when the block ends well, and is deleted if not.

    Args:
        out: a folder that isn't there yet, or is empty.
        overwrite: replace `out`, provided that all its files' names end as `replaceable` says.
    """
    _refuse_existing(out, overwrite, replaceable)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{out.name}.partial-", dir=out.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        _put_in_place(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_shards(
    folder: Path, samples: Iterable[TarSample], shard_size: int, prefix: str
) -> Iterator[Path]:
    """Writes samples to PREFIX-000000.tar, ...; gives each shard's path once it is whole."""
    source = iter(samples)
    for number, first in enumerate(source):
        path = folder / f"{prefix}-{number:06d}.tar"
        write_shard(path, chain([first], islice(source, shard_size - 1)))
        yield path


def write_shard(path: Path, samples: Iterable[TarSample]) -> None:
    """One shard, byte-identical for the same samples: no clock and no user's name goes in."""
    with (
        path.open("wb") as stream,
        TarWriter(stream, encoder=False, user="vlpretrain", group="vlpretrain", mtime=0) as tar,
    ):
        for sample in samples:
            tar.write(sample)


def _refuse_existing(out: Path, overwrite: bool, replaceable: tuple[str, ...]) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise UserError("the output exists and is no folder", where=str(out), fix="name another")
    if not overwrite:
        fix = "name another folder, or replace this one with --overwrite"
        raise UserError("the output folder exists and is not empty", where=str(out), fix=fix)
    foreign = [item.name for item in out.iterdir() if not item.name.endswith(replaceable)]
    if foreign:
        problem = f"--overwrite would delete {foreign[0]!r}, which this command didn't make"
        raise UserError(problem, where=str(out), fix="name another folder, or move that away")


def _put_in_place(partial: Path, out: Path) -> None:
    old = out.with_name(partial.name.replace(".partial-", ".old-"))
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
