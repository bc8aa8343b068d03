"""Shards of coloured pictures with their classes, for the tests."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 220)}
SIDE = 40


def write_labelled(
    folder: Path,
    labels: Sequence[Any],
    name: str = "shard.tar",
    more: Mapping[str, Any] | None = None,
) -> Path:
    """A shard of one picture for each label, in the label's colour with noise; None: no label.

    A label "broken" stands for a file that is no picture, of class "red".
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / name, "w") as shard:
        for number, label in enumerate(labels):
            picture = b"no picture" if label == "broken" else png(label, number)
            record = dict(more or {})
            if label is not None:
                record["label"] = "red" if label == "broken" else label
            _add(shard, f"{number:05d}.png", picture)
            _add(shard, f"{number:05d}.json", json.dumps(record).encode())
    return folder


def png(label: Any, number: int) -> bytes:
    random = np.random.default_rng(number)
    colour = COLOURS.get(label, (label if isinstance(label, int) else 7, 128, 128))
    picture_HWC = random.normal(0, 20, (SIDE, SIDE, 3)) + colour
    file = io.BytesIO()
    Image.fromarray(picture_HWC.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))
