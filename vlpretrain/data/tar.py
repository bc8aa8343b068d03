"""The members of a tar file, read from its headers without trusting them.

Follows POSIX.1-2001 (ustar and pax) and GNU tar's long names. A header counts only when its
checksum holds; where one does not, reading goes on at the next whole header, and the gap is told.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 512
FILE, FOLDER = "file", "folder"

_MAGIC, _MAGIC_AT = b"ustar", 257
_ZEROS = bytes(BLOCK)
_KINDS = {
    b"0": FILE,
    b"\0": FILE,
    b"7": FILE,
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "device",
    b"4": "device",
    b"5": FOLDER,
    b"6": "pipe",
    b"S": "sparse file",
}
_WITHOUT_CONTENT = ("hard link", "symbolic link", "device", FOLDER, "pipe")
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_EXTENSION_TYPES = (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL)
_LONGEST_EXTENSION = 1 << 20  # bytes; a longer name or pax record is damage, not a name
_UNTRUSTED = b""  # an override that says: what else overrides the next header is not known
_SEARCH_CHUNK = 1 << 20
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")


@dataclass(frozen=True, slots=True)
class Member:
    """One member: `offset` and `size` of its content in bytes. `kind` is FILE, FOLDER or other."""

    name: str
    kind: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch that could not be read, from `offset` to `resumed` (None: to the file's end).

    `name` is the member it cost, where that is known. `cut` is True when the file ends before its
    end marker: whatever followed is lost. `shifted` is True when the headers after the damage are
    out of step with those before, so that the content of the last member cannot be right.
    """

    offset: int
    resumed: int | None
    reason: str
    name: str = ""
    cut: bool = False
    shifted: bool = False


def read_members(file: BinaryIO, file_size: int) -> Iterator[Member | Damage]:
    """Every member and every damage of a tar, in file order; never raises for bad content."""
    return _TarReader(file, file_size).events()


@dataclass(frozen=True, slots=True)
class _Header:
    name: bytes
    kind: bytes
    size: int
    name_is_full: bool  # fills its field: it may be the beginning of a longer name


class _TarReader:
    def __init__(self, file: BinaryIO, file_size: int) -> None:
        self.file = file
        self.file_size = file_size
        self.position = 0  # of the next header
        self.after_damage = False

    def events(self) -> Iterator[Member | Damage]:
        override: dict[bytes, bytes] = {}  # what extension headers say about the next member
        while True:
            start = self.position
            block = self._read(start, BLOCK)
            header = parse_header(block)
            if header is not None and header.kind in _EXTENSION_TYPES:
                if not self._read_extension(header, override):
                    yield Damage(start, self.position, f"broken extension header at byte {start}")
                    override = {_UNTRUSTED: b""}
                continue
            event = self._recover(block) if header is None else self._member(header, override)
            override = {}
            if event is not None:
                yield event
            if event is None or (isinstance(event, Damage) and event.resumed is None):
                return

    def _member(self, header: _Header, override: dict[bytes, bytes]) -> Member | Damage:
        start = self.position
        name = override.get(b"path", header.name).decode("utf-8", "backslashreplace")
        kind = _KINDS.get(header.kind, "member of unknown type")
        if any(key.startswith(b"GNU.sparse") for key in override):
            kind = "sparse file"
        elif kind == FILE and name.endswith("/"):
            kind = FOLDER  # as tars before POSIX say it
        size = _decimal(override.get(b"size"), header.size)
        # A link may state its target's size, a folder a reserve: neither stores anything.
        end = start + BLOCK + (0 if kind in _WITHOUT_CONTENT else size)
        self.position = _padded(end - start) + start
        doubtful = _UNTRUSTED in override or (
            self.after_damage and b"path" not in override and _may_be_stand_in(header)
        )
        self.after_damage = False
        if end > self.file_size:
            reason = f"cut: the file ends {end - self.file_size} bytes too early"
            return Damage(start, None, reason, name, cut=True)
        if doubtful:
            return Damage(start, self.position, "its full name was lost in the damage", name)
        return Member(name, kind, start + BLOCK, size)

    def _read_extension(self, header: _Header, override: dict[bytes, bytes]) -> bool:
        """Adds what a long-name or pax header says to `override`; False when it is malformed."""
        body = self._read(self.position + BLOCK, min(header.size, _LONGEST_EXTENSION))
        self.position += BLOCK + _padded(header.size)
        if len(body) < header.size and self.position <= self.file_size:
            return False
        if header.kind == _LONG_NAME:
            override[b"path"] = body.rstrip(b"\0")
        elif header.kind == _PAX:
            records = parse_pax(body)
            override.update(records or {})
            return records is not None or self.position > self.file_size
        return True

    def _recover(self, block: bytes) -> Damage | None:
        """What stands where a header should: None for the end marker, else the damage."""
        start = self.position
        if len(block) < BLOCK:
            # Nothing but padding can begin with a zero byte: even a part of it is the end marker.
            if block and not block.strip(b"\0"):
                return None
            reason = f"cut: the file ends at byte {self.file_size} without an end marker"
            return Damage(start, None, reason, cut=True)
        resumed = self._next_header(start + 1)
        if resumed is None:
            if block == _ZEROS and self._only_zeros(start):
                return None
            return Damage(start, None, f"broken header at byte {start}, none whole after it")
        self.position = resumed
        self.after_damage = True
        reason = f"broken header at byte {start}, reading resumed at byte {resumed}"
        return Damage(start, resumed, reason, shifted=(resumed - start) % BLOCK != 0)

    def _next_header(self, start: int) -> int | None:
        """Offset of the first whole header at or after `start`, wherever it is aligned."""
        chunk_start = start
        while chunk_start < self.file_size:
            # Chunks overlap by a block, so that no header is missed across their border.
            chunk = self._read(chunk_start, _SEARCH_CHUNK + BLOCK)
            found = chunk.find(_MAGIC, _MAGIC_AT)
            while found != -1:
                begin = found - _MAGIC_AT
                if parse_header(chunk[begin : begin + BLOCK]) is not None:
                    return chunk_start + begin
                found = chunk.find(_MAGIC, found + 1)
            chunk_start += _SEARCH_CHUNK
        return None

    def _only_zeros(self, start: int) -> bool:
        for offset in range(start, self.file_size, _SEARCH_CHUNK):
            if self._read(offset, _SEARCH_CHUNK).strip(b"\0"):
                return False
        return True

    def _read(self, offset: int, size: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(size)


def parse_header(block: bytes) -> _Header | None:
    """A ustar, GNU or v7 header block; None unless it is whole and its checksum holds."""
    if len(block) < BLOCK or block[0] == 0:
        return None
    size = _number(block[124:136])
    if size is None or size < 0 or _number(block[148:156]) != _checksum(block):
        return None
    name = _text(block[0:100])
    is_posix = block[257:263] == b"ustar\0"
    prefix = _text(block[345:500]) if is_posix else b""
    full = len(name) == 100
    return _Header(prefix + b"/" + name if prefix else name, block[156:157], size, full)


def parse_pax(body: bytes) -> dict[bytes, bytes] | None:
    """The records "LENGTH KEY=VALUE\\n" of a pax header; None when they are malformed."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(body) and body[position]:
        match = _PAX_RECORD.match(body, position)
        if match is None:
            return None
        end = position + int(match[1])
        if end <= match.end() or end > len(body) or body[end - 1 : end] != b"\n":
            return None
        records[match[2]] = body[match.end() : end - 1]
        position = end
    return records


def _checksum(block: bytes) -> int:
    """The sum of a header's bytes, its own checksum field counted as spaces.

    adler32's lower half is 1 + the sum of the bytes modulo 65521, which 256 bytes cannot reach:
    an exact sum, fifty times as fast as a loop.
    """
    filled = block[:148] + b"        " + block[156:]
    return (zlib.adler32(filled[:256]) & 0xFFFF) + (zlib.adler32(filled[256:]) & 0xFFFF) - 2


def _number(digits: bytes) -> int | None:
    """A numeric field: octal text, or GNU's base-256 when the first bit is set."""
    if digits[0] & 0x80:
        return int.from_bytes(digits, "big") - (0x80 << (8 * len(digits) - 8))
    try:
        return int(_text(digits).strip() or b"0", 8)
    except ValueError:
        return None


def _decimal(digits: bytes | None, default: int) -> int:
    return int(digits) if digits is not None and digits.isdigit() else default


def _text(padded: bytes) -> bytes:
    return padded.partition(b"\0")[0]


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _may_be_stand_in(header: _Header) -> bool:
    """True when the real name or size may stand in an extension header that the damage took."""
    return header.name_is_full or b"?" in header.name or header.size == 0
