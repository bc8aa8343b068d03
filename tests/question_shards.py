"""Shards of plain pictures with their questions, for the tests."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from PIL import Image

from vlpretrain.config.schema import DataConfig
from vlpretrain.data.shards import Source, open_source
from vlpretrain.types import Sample

SIDE = 40
BROKEN = b"no picture"


def ask(text: str, answers: Any = "yes", **more: Any) -> dict[str, Any]:
    """One question as a record holds it."""
    return {"question": text, "answers": answers, **more}


def png(grey: int) -> bytes:
    return _encoded(np.full((SIDE, SIDE, 3), grey, np.uint8))


def noise(seed: int = 0) -> bytes:
    random = np.random.default_rng(seed)
    return _encoded(random.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))


def _encoded(pixels_HWC: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, "PNG")
    return file.getvalue()


def write_shard(
    path: Path, records: Mapping[str, Mapping[str, Any]], pictures: Mapping[str, Sequence[bytes]]
) -> None:
    """A sample for each record, by key. Without an entry in `pictures` it has one, grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for key, record in records.items():
            given = pictures.get(key, [png(128)])
            named = {"png": given[0]} if len(given) == 1 else _numbered(given)
            writer.write({"__key__": key, **named, "json": json.dumps(record).encode()})


def _numbered(pictures: Sequence[bytes]) -> dict[str, bytes]:
    return {f"{number}.png": picture for number, picture in enumerate(pictures)}


def open_folder(folder: Path) -> Source:
    return open_source(str(folder), DataConfig(cache_dir=str(folder / "cache")))


def sample_of(
    questions: Any, key: str = "k", images: Sequence[bytes] = (), **metadata: Any
) -> Sample:
    images = tuple(images) or (png(128),)
    return Sample(key, "a.tar", images[0], (), {"questions": questions, **metadata}, images)
