"""Caption data sets as they are downloaded: what `make` reads, with their splits checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from data_tools.caption_rows import CaptionOptions
from data_tools.convert.published import PUBLISHED, check_published, recognise_split
from data_tools.make import MakeOptions, MakeReport, make_shards

# Karpathy's split "restval" (30,504 pictures of val2014) is trained on by nearly everybody.
RESTVAL_IS = "train"


@dataclass(frozen=True, slots=True)
class CaptionReport:
    """What `make` reports, and whether the split has its published size."""

    published: str
    made: MakeReport

    def lines(self) -> list[str]:
        return [self.published, *self.made.lines()]


def convert_captions(
    data_set: str,
    files: tuple[Path, Path],
    out: Path,
    reading: CaptionOptions,
    options: MakeOptions,
) -> CaptionReport:
    """Writes shards of (folder of pictures, caption file); a picture's captions stay together."""
    images, captions = files
    made = make_shards(images, captions, out, reading, options)
    split = _split(data_set, captions, made, options)
    listed = made.listed_pictures, made.listed_captions
    line = check_published(data_set, split, *listed, "captions")
    return CaptionReport(line, made)


def captions_reading(reading: CaptionOptions, restval: str) -> CaptionOptions:
    """The same, with Karpathy's "restval" counted as train unless it is to stay apart."""
    return replace(reading, restval=RESTVAL_IS if restval == "train" else "")


def _split(data_set: str, captions: Path, made: MakeReport, options: MakeOptions) -> str:
    """The split that was taken, as PUBLISHED names it; "" where that isn't known."""
    if options.split:
        return options.split
    if options.only is not None:
        return recognise_split(data_set, options.only)
    whole = "all" in PUBLISHED.get(data_set, {}) and made.understood.get("form") != "karpathy"
    return recognise_split(data_set, captions) or ("all" if whole else "")
