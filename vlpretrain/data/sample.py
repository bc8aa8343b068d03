"""A shard's record, parsed: which member is the picture, what the texts say."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from vlpretrain.types import RawSample, Sample

PICTURE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")

# A caption is cut here: far beyond any text tower's length, and a bound on the tokeniser's work.
MAX_CAPTION_CHARACTERS = 65_536


class SampleError(Exception):
    """Why a sample can't be used. It is skipped, counted and named; the run goes on."""


def parse_sample(raw: RawSample) -> Sample:
    """Finds the picture and reads the texts; the picture stays encoded.

    Captions come from `.txt` (one) and `.json` (`captions`, a list, or `caption`, a string, as
    img2dataset writes it), each once, blank ones dropped, cut at MAX_CAPTION_CHARACTERS. What else
    the JSON holds is the metadata.

    Raises:
        SampleError: a text that isn't UTF-8, or JSON that isn't an object of this form.
    """
    text = _part(raw, ("txt",))
    record = _part(raw, ("json",))
    metadata = {} if record is None else _read_json(record)
    captions = [] if text is None else [_read_text(text, "txt")]
    captions += _json_captions(metadata)
    pictures = _parts(raw, PICTURE_EXTENSIONS)
    kept = (caption.strip()[:MAX_CAPTION_CHARACTERS] for caption in captions)
    return Sample(
        key=raw.key,
        shard=raw.shard,
        image=pictures[0] if pictures else None,
        captions=tuple(dict.fromkeys(caption for caption in kept if caption)),
        metadata=metadata,
        images=tuple(pictures),
    )


def _part(raw: RawSample, extensions: Iterable[str]) -> bytes | None:
    found = _parts(raw, extensions)
    return found[0] if found else None


def _parts(raw: RawSample, extensions: Iterable[str]) -> list[bytes]:
    """The members with one of these extensions; a plain "jpg" goes before a dotted "000.jpg"."""
    wanted = set(extensions)
    names = [name for name in raw.parts if name.lower().rpartition(".")[2] in wanted]
    return [raw.parts[name] for name in sorted(names, key=lambda name: (name.count("."), name))]


def _read_text(data: bytes, extension: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SampleError(f".{extension} is not UTF-8: byte {error.start}") from error


def _read_json(data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(_read_text(data, "json"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise SampleError(f".json is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise SampleError(f".json holds a {type(record).__name__}, not an object")
    return record


def _json_captions(metadata: dict[str, Any]) -> list[str]:
    captions = metadata.get("captions")
    if captions is None:
        captions = [metadata.get("caption")]
    if not isinstance(captions, list):
        raise SampleError(f".json `captions` is a {type(captions).__name__}, not a list of texts")
    for caption in captions:
        if caption is not None and not isinstance(caption, str):
            raise SampleError(f".json caption {caption!r:.40} is not a text")
    return [caption for caption in captions if caption is not None]
