"""Embeddings of many pictures in one file, and exact search among them.

Shapes: N pictures, E embedding width.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlpretrain.errors import UserError
from vlpretrain.models.factory import WEIGHTS_FILE
from vlpretrain.tasks.ranking import nearest

FORMAT = "vlpretrain picture index 1"
# Pictures that are compared with a query at once.
CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture on the disk as it was when it was encoded."""

    name: str  # from the index's folder on
    size: int  # bytes
    changed_ns: int  # modification time


@dataclass(frozen=True, slots=True)
class Hit:
    """A picture that was found."""

    row: int
    score: float  # the cosine


@dataclass(frozen=True)
class PictureIndex:
    """L2-normalised embeddings of the pictures under a folder, by one model."""

    folder: Path
    model: Path  # the export that made it
    fingerprint: str  # of that export's weights
    files: tuple[PictureFile, ...]
    embedding_NE: Tensor  # float32

    def search(self, query_E: Tensor, top: int) -> list[Hit]:
        """The nearest pictures, the nearest first; equals in the order of the index."""
        best_K = torch.empty(0)
        row_K = torch.empty(0, dtype=torch.int64)
        for first in range(0, len(self.files), CHUNK):
            score_C = self.embedding_NE[first : first + CHUNK] @ query_E
            score_C = torch.cat([best_K, score_C])
            row_C = torch.cat([row_K, torch.arange(first, first + len(score_C) - len(best_K))])
            kept_K = nearest(score_C[None], min(top, len(score_C)))[0]
            best_K, row_K = score_C[kept_K], row_C[kept_K]
        return [Hit(*hit) for hit in zip(row_K.tolist(), best_K.tolist(), strict=True)]

    def path_of(self, row: int) -> Path:
        return self.folder / self.files[row].name


def weights_fingerprint(export: Path) -> str:
    """SHA-256 of an export's weights.

    Raises:
        UserError: there are none.
    """
    path = export / WEIGHTS_FILE
    if not path.is_file():
        raise UserError(
            f"no model was saved here: there is no {WEIGHTS_FILE}",
            where=str(export),
            fix="--model with the export folder of a run",
        )
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path that becomes `path` when the block ends well, and is deleted if not.

    Raises:
        UserError: it can't be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        system = error if isinstance(error, OSError) else OSError()
        raise UserError(
            f"can't be written: {system.strerror or error}",
            where=str(path),
            fix="free some space, or name another file as --out",
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def printable(name: str) -> str:
    """A file's name may be bytes that are no text."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def save_index(index: PictureIndex, path: Path) -> None:
    """The whole file or none. Names and paths may be any bytes, so they are kept as such."""
    tensors = {
        "embedding": index.embedding_NE.contiguous(),
        "names": _as_bytes("\0".join(file.name for file in index.files)),
        "size": torch.tensor([file.size for file in index.files]),
        "changed_ns": torch.tensor([file.changed_ns for file in index.files]),
        "folder": _as_bytes(str(index.folder)),
        "model": _as_bytes(str(index.model)),
    }
    about = {"format": FORMAT, "fingerprint": index.fingerprint}
    with new_file(path) as partial:
        save_file(tensors, partial, metadata=about)


def load_index(path: Path) -> PictureIndex:
    """
    Raises:
        UserError: there is no such file, or it is none of ours.
    """
    if not path.is_file():
        raise UserError(
            "there is no such index",
            where=str(path),
            fix="vlpretrain index-images DIR --model EXPORT --out FILE makes one",
        )
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _not_an_index(path) from error
    if about.get("format") != FORMAT:
        raise _not_an_index(path)
    names = _as_text(tensors["names"]).split("\0")
    rows = zip(names, tensors["size"].tolist(), tensors["changed_ns"].tolist(), strict=True)
    return PictureIndex(
        folder=Path(_as_text(tensors["folder"])),
        model=Path(_as_text(tensors["model"])),
        fingerprint=about["fingerprint"],
        files=tuple(PictureFile(*row) for row in rows),
        embedding_NE=tensors["embedding"],
    )


def _not_an_index(path: Path) -> UserError:
    return UserError(
        "is no index of pictures",
        where=str(path),
        fix="a file that `vlpretrain index-images` wrote",
    )


def _as_bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(os.fsencode(text)), dtype=torch.uint8)


def _as_text(bytes_n: Tensor) -> str:
    return os.fsdecode(bytes_n.numpy().tobytes())
