"""Writing on pictures: whatever the text, it fits and it is drawn. Imports nothing of ours."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import ImageFont


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans in pixels: matplotlib brings it along, and it knows far more alphabets than
    Pillow's own font."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def wrap(text: str, face: ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """The text in at most `lines` lines that fit the width; dots where something was cut."""
    wrapped = [""]
    for word in text.split():
        longer = f"{wrapped[-1]} {word}".strip()
        if not wrapped[-1] or face.getlength(longer) <= width:
            wrapped[-1] = longer
        elif len(wrapped) == lines:
            wrapped[-1] = f"{wrapped[-1]} …"
            break
        else:
            wrapped.append(word)
    return [cut(line, face, width) for line in wrapped]


def cut(line: str, face: ImageFont.FreeTypeFont, width: int) -> str:
    """The line, shortened where it's wider than allowed."""
    if face.getlength(line) <= width:
        return line
    kept = line[: width // 2]
    while kept and face.getlength(kept + "…") > width:
        kept = kept[:-1]
    return kept + "…"
