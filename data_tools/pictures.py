"""Picture files, as they go into a shard."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vlpretrain.pixels import picture_pixels

# Stored as they are, under these extensions.
STORED = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
# Read, and stored as PNG: the loader knows them, but a shard's readers elsewhere may not.
CONVERTED = ("GIF", "BMP", "TIFF")
# MPO is a JPEG with more pictures behind it, and opened as one.
OPENED = ("JPEG", "PNG", "WEBP", *CONVERTED)
JPEG_QUALITY = 95
_USUAL_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG")


class PictureError(Exception):
    """Why a file can't go into a shard as a picture."""


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """Bytes for a shard; `converted` where they are not the file's own."""

    extension: str
    data: bytes
    converted: bool


def find_picture(folder: Path, name: str) -> Path | None:
    """The file that `name` means: a path in the folder, or a bare name, with or without suffix."""
    relative = name.replace("\\", "/").strip()
    if not relative:
        return None
    for candidate in (folder / relative, folder / Path(relative).name):
        if candidate.is_file():
            return candidate
        for suffix in _USUAL_SUFFIXES:
            with_suffix = candidate.with_name(candidate.name + suffix)
            if with_suffix.is_file():
                return with_suffix
    return None


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
