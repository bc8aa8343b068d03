"""Which encoding a text file is in."""

from __future__ import annotations

import codecs
from pathlib import Path

from vlpretrain.errors import UserError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHUNK = 1 << 20


def detect_encoding(path: Path) -> str:
    """By its mark; else utf-16 by its zero bytes, else the first of utf-8, cp1252 and latin-1 that
    decodes all of it."""
    with path.open("rb") as stream:
        head = stream.read(4096)
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    if b"\0" in head:
        return "utf-16-le" if head[1::2].count(0) >= head[0::2].count(0) else "utf-16-be"
    if _decodes(path, "utf-8"):
        return "utf-8"
    # latin-1 gives control characters where cp1252 has quotes and dashes.
    return "cp1252" if _decodes(path, "cp1252") else "latin-1"


def check_encoding(path: Path, encoding: str) -> str:
    """The encoding itself, if Python knows it and all of the file decodes."""
    try:
        codecs.lookup(encoding)
    except LookupError:
        fix = "a Python codec name, such as utf-8, utf-16, latin-1, cp1252"
        raise UserError(f"unknown encoding {encoding!r}", where="--encoding", fix=fix) from None
    if not _decodes(path, encoding):
        fix = "leave --encoding out to have it recognised"
        raise UserError(f"the file is not {encoding}", where=str(path), fix=fix)
    return encoding


def _decodes(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
