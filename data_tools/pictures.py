"""Picture files, as they go into a shard."""

from __future__ import annotations

import filecmp
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from vlpretrain.errors import UserError
from vlpretrain.pixels import picture_pixels

# Stored as they are, under these extensions.
STORED = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
# Read, and stored as PNG: the loader knows them, but a shard's readers elsewhere may not.
CONVERTED = ("GIF", "BMP", "TIFF")
# MPO is a JPEG with more pictures behind it, and opened as one.
OPENED = ("JPEG", "PNG", "WEBP", *CONVERTED)
JPEG_QUALITY = 95
_COCO_NAME = re.compile(r"COCO_[a-z]+\d{4}_(\d{12}(\.\w+)?)")
_USUAL_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG")


class PictureError(Exception):
    """Why a file can't go into a shard as a picture."""


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """Bytes for a shard; `converted` where they are not the file's own."""

    extension: str
    data: bytes
    converted: bool


class PictureFolder:
    """The picture files of a folder, found by name. Each folder in it is listed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed: dict[PurePosixPath, frozenset[str]] = {}

    def find(self, *names: str) -> Path | None:
        """The file that any of the names means, all of them names of one picture.

        A name is a path in the folder, or a bare file name, with or without suffix; COCO's
        "COCO_train2014_000000000009.jpg" also means 000000000009.jpg, its name since 2017.

        Raises:
            UserError: two files fit, and their content differs.
        """
        found = list(dict.fromkeys(path for name in names for path in self._matches(name)))
        for other in found[1:]:
            if not filecmp.cmp(found[0], other, shallow=False):
                problem = f"two pictures under one id: {found[0].name} and {other.name}"
                raise UserError(problem, where=str(self.folder), fix="keep the right one of them")
        return found[0] if found else None

    def _matches(self, name: str) -> list[Path]:
        relative = PurePosixPath(name.replace("\\", "/").strip())
        if not relative.name:
            return []
        candidates = [relative, PurePosixPath(relative.name)]
        coco = _COCO_NAME.fullmatch(relative.name)
        if coco is not None:
            candidates.append(PurePosixPath(coco[1]))
        for candidate in candidates:
            there = self._names(candidate.parent)
            if candidate.name in there:
                return [self.folder / candidate]
            with_suffix = [candidate.name + suffix for suffix in _USUAL_SUFFIXES]
            found = [self.folder / candidate.parent / name for name in with_suffix if name in there]
            if found:
                return found
        return []

    def _names(self, folder: PurePosixPath) -> frozenset[str]:
        if folder not in self._listed:
            try:
                self._listed[folder] = frozenset(os.listdir(self.folder / folder))
            except (FileNotFoundError, NotADirectoryError):
                self._listed[folder] = frozenset()
        return self._listed[folder]


def load_picture(path: Path, resize: int | None) -> StoredPicture:
    """The file's bytes, or with `resize` a JPEG whose shorter side has that many pixels.

    Smaller pictures are never enlarged, and stay as they are.

    Raises:
        PictureError: empty, no picture, of an unknown format, or broken where it had to be read.
    """
    data = path.read_bytes()
    if not data:
        raise PictureError("zero bytes")
    try:
        with Image.open(io.BytesIO(data), formats=OPENED) as picture:
            if resize is not None and min(picture.size) > resize:
                return StoredPicture("jpg", _shrunk_jpeg(picture, resize), converted=True)
            if picture.format in CONVERTED:
                return StoredPicture("png", _encode(_upright(picture), "PNG"), converted=True)
            return StoredPicture(STORED[str(picture.format)], data, converted=False)
    # Pillow's readers raise nearly anything on broken bytes.
    except Exception as error:
        raise PictureError(_reason(error)) from error


def _shrunk_jpeg(picture: Image.Image, shorter: int) -> bytes:
    scale = shorter / min(picture.size)
    # Decoded at no less than twice the wanted size: as sharp as from the whole, and faster.
    wide, high = (round(side * scale) for side in picture.size)
    picture.draft(None, (2 * wide, 2 * high))
    upright = _upright(picture)
    scale = shorter / min(upright.size)
    wide, high = (round(side * scale) for side in upright.size)
    return _encode(upright.resize((wide, high), Image.Resampling.LANCZOS), "JPEG")


def _upright(picture: Image.Image) -> Image.Image:
    """RGB, turned as EXIF says, transparency over white: as the loader would see it."""
    pixels_CHW = picture_pixels(picture)
    return Image.fromarray(pixels_CHW.permute(1, 2, 0).contiguous().numpy())


def _encode(picture: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=form, quality=JPEG_QUALITY)
    return buffer.getvalue()


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a JPEG, PNG, WebP, GIF, BMP or TIFF picture"
    return str(error) or type(error).__name__
