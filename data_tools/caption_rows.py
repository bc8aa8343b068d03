"""What every caption file becomes: rows of a picture's name and one caption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """One caption of one picture; `caption` may be blank, and `metadata` goes into the sample."""

    picture: str
    caption: str
    split: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CaptionRows:
    """A caption file's rows, read as they are asked for, and how it was understood."""

    rows: Iterator[CaptionRow]
    understood: dict[str, str]


@dataclass(frozen=True, slots=True)
class CaptionOptions:
    """How to read a caption file, where it isn't to be recognised ("")."""

    format: str = ""
    encoding: str = ""
    delimiter: str = ""
    image_column: str = ""
    caption_column: str = ""
    restval: str = ""  # the split that Karpathy's "restval" counts as; "" leaves it as it is
