"""Which column of a table names the picture, and which holds its caption."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from vlpretrain.errors import UserError

IMAGE_NAMES = (
    "image", "file_name", "filename", "filepath", "image_path", "image_name", "image_file", "img",
    "img_path", "path", "file", "picture", "photo", "jpg", "image_id", "id",
)  # fmt: skip
CAPTION_NAMES = (
    "caption", "captions", "text", "txt", "sentence", "sentences", "description", "title",
    "comment", "raw", "alt", "alt_text",
)  # fmt: skip
SPLIT_NAMES = ("split", "set", "subset")

# Flickr8k has one picture called "2258277193_586949ec62.jpg.1".
_PICTURE_FILE = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?)(\.\d)?(#\d+)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Columns:
    """Places of the columns, from 0; `split` is None where there is none."""

    names: tuple[str, ...]
    image: int
    caption: int
    split: int | None

    @property
    def shown(self) -> str:
        return f"{self.names[self.image]!r} names the picture, {self.names[self.caption]!r} it says"


def choose_columns(
    names: list[str], where: str, image_column: str = "", caption_column: str = ""
) -> Columns:
    """The named columns, else those whose names are usual; UserError lists what there is."""
    image = _choose(names, where, "--image-column", image_column, IMAGE_NAMES)
    caption = _choose(names, where, "--caption-column", caption_column, CAPTION_NAMES)
    lowered = [name.lower() for name in names]
    split = next((lowered.index(name) for name in SPLIT_NAMES if name in lowered), None)
    return Columns(tuple(names), image, caption, split)


def names_a_picture(cell: str) -> bool:
    """True of a picture's file name, also with Flickr8k's "#0" behind it."""
    return _PICTURE_FILE.search(cell.strip()) is not None


def without_number(cell: str) -> str:
    """Flickr8k numbers a picture's captions: "a.jpg#0" is a.jpg."""
    return re.sub(r"#\d+$", "", cell) if names_a_picture(cell) else cell


def headerless_names(first_row: list[str]) -> list[str] | None:
    """Names for the columns of a table whose first row is data already, else None."""
    if not any(names_a_picture(cell) for cell in first_row):
        return None
    image = next(place for place, cell in enumerate(first_row) if names_a_picture(cell))
    others = [place for place in range(len(first_row)) if place != image]
    names = [f"column{place + 1}" for place in range(len(first_row))]
    names[image] = "image"
    if others:
        names[max(others, key=lambda place: len(first_row[place]))] = "caption"
    return names


def _choose(names: list[str], where: str, option: str, wanted: str, usual: tuple[str, ...]) -> int:
    there = ", ".join(repr(name) for name in names)
    if wanted:
        if wanted in names:
            return names.index(wanted)
        near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"no column {wanted!r}", where=where, fix=f"{hint}there are {there}")
    lowered = [name.lower() for name in names]
    for name in usual:
        if name in lowered:
            return lowered.index(name)
    what = "names the picture" if usual is IMAGE_NAMES else "holds the caption"
    raise UserError(
        f"no column whose name says that it {what}",
        where=where,
        fix=f"{option} with one of {there}",
    )
