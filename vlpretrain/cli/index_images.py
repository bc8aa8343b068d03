"""`vlpretrain index-images DIR --model EXPORT`: all pictures under a folder in one file.

Shapes: C channels, H W pixels, E embedding width.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from vlpretrain.cli.arguments import IndexOptions, read_index_options
from vlpretrain.cli.counter import Counter
from vlpretrain.cli.faiss_index import need_faiss, remove_faiss, write_faiss
from vlpretrain.data.decode import decode_crop
from vlpretrain.data.sample import SampleError
from vlpretrain.data.transforms import centre_box
from vlpretrain.errors import UserError
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.picture_index import (
    PictureFile,
    PictureIndex,
    load_index,
    printable,
    save_index,
    weights_fingerprint,
)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MOST_PIXELS = 89_478_485  # Pillow's own limit for decompression bombs
DECODERS = 8  # threads at most; decoding lets go of the interpreter
NAMED_IN_ERROR = 3


def index_images(arguments: Sequence[str]) -> int:
    """Writes the index. Pictures that can't be read are named, counted and left out; those that an
    index of this folder by this model has already are not read again."""
    options = read_index_options(arguments)
    if options.faiss:
        need_faiss()
    files = find_pictures(options.folder)
    fingerprint = weights_fingerprint(options.model)
    known = known_embeddings(options, fingerprint)
    new = [file for file in files if file not in known]
    found = encode(options, new) if new else {}
    known |= found
    there = [file for file in files if file in known]
    if not there:
        names = ", ".join(printable(file.name) for file in files[:NAMED_IN_ERROR])
        raise UserError(
            f"none of the {len(files)} pictures can be read: {names}",
            where=str(options.folder),
            fix="a folder of JPEG, PNG or WebP pictures",
        )
    index = PictureIndex(
        folder=options.folder.resolve(),
        model=options.model.resolve(),
        fingerprint=fingerprint,
        files=tuple(there),
        embedding_NE=torch.stack([known[file] for file in there]),
    )
    write(index, options)
    say(f"{options.out}: {len(there)} pictures, {len(found)} of them new")
    if len(found) < len(new):
        say(f"{len(new) - len(found)} pictures skipped: they can't be read")
    return 0


def find_pictures(folder: Path) -> list[PictureFile]:
    """The pictures under a folder, by name.

    Raises:
        UserError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise UserError("there is no such folder", where=str(folder), fix="a folder of pictures")
    found = []
    for parent, _, names in os.walk(folder, onerror=_say_unreadable):
        for name in names:
            if name.lower().endswith(SUFFIXES):
                found.append(_look_at(Path(parent, name), folder))
    if not found:
        raise UserError(
            "holds no picture", where=str(folder), fix=f"files that end in {', '.join(SUFFIXES)}"
        )
    return sorted(found, key=lambda file: file.name)


def known_embeddings(options: IndexOptions, fingerprint: str) -> dict[PictureFile, Tensor]:
    """What an index that stands at `out` has of this folder by this model.

    Raises:
        UserError: something else stands there.
    """
    if not options.out.exists():
        return {}
    old = load_index(options.out)
    if old.fingerprint != fingerprint or old.folder != options.folder.resolve():
        say(f"{options.out} is of another model or folder: it is made anew")
        return {}
    return dict(zip(old.files, old.embedding_NE, strict=True))


def encode(options: IndexOptions, files: Sequence[PictureFile]) -> dict[PictureFile, Tensor]:
    """Embeddings [E] of those that can be read; the others are named."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = VLModel.from_pretrained(options.model, device)
    found: dict[PictureFile, Tensor] = {}
    waiting: dict[PictureFile, Tensor] = {}
    counter = Counter(len(files), "pictures")
    for file, pixels_CHW in read_ahead(options, files, model.vision.image_size):
        if isinstance(pixels_CHW, str):
            counter.note(f"skipped {printable(file.name)}: {pixels_CHW}")
        else:
            waiting[file] = pixels_CHW
        counter.add(1)
        if len(waiting) == options.batch:
            found |= _embeddings(model, waiting)
            waiting = {}
    counter.close()
    return found | _embeddings(model, waiting)


def read_ahead(
    options: IndexOptions, files: Sequence[PictureFile], size: int
) -> Iterator[tuple[PictureFile, Tensor | str]]:
    """Every file in order with its pixels, or with the reason why there are none; two batches are
    decoded ahead."""
    ahead = 2 * options.batch
    with ThreadPoolExecutor(min(DECODERS, os.cpu_count() or 1)) as pool:
        waiting: deque[tuple[PictureFile, Future[Tensor | str]]] = deque()
        for file in files:
            waiting.append((file, pool.submit(read_picture, options.folder / file.name, size)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def read_picture(path: Path, size: int) -> Tensor | str:
    """uint8 RGB [C, size, size] of the middle square, or why it can't be read."""
    try:
        return decode_crop(path.read_bytes(), size, centre_box, max_pixels=MOST_PIXELS)
    except SampleError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def write(index: PictureIndex, options: IndexOptions) -> None:
    """The index, and faiss's beside or none: an older one would answer with other pictures."""
    if options.out.is_dir():
        raise UserError("is a folder", where=str(options.out), fix="--out names a file")
    remove_faiss(options.out)
    save_index(index, options.out)
    if options.faiss:
        write_faiss(index.embedding_NE, options.out)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _look_at(path: Path, folder: Path) -> PictureFile:
    name = str(path.relative_to(folder))
    try:
        state = path.stat()
    except OSError:  # it says why when it is read
        return PictureFile(name, 0, 0)
    return PictureFile(name, state.st_size, state.st_mtime_ns)


def _embeddings(model: VLModel, pixels: dict[PictureFile, Tensor]) -> dict[PictureFile, Tensor]:
    if not pixels:
        return {}
    embedding_BE = model.encode_image(list(pixels.values()), batch_size=len(pixels)).cpu()
    if not bool(embedding_BE.isfinite().all()):
        names = (printable(file.name) for file in pixels)
        raise UserError(
            f"the model gives no finite embeddings, first in the pictures from {next(names)} on",
            where="--model",
            fix="the weights hold NaN: the export of another run",
        )
    return dict(zip(pixels, embedding_BE, strict=True))


def _say_unreadable(error: OSError) -> None:
    say(f"skipped {printable(str(error.filename))}: {error.strerror}")
