"""Arguments that several commands take, and what they become."""

from __future__ import annotations

import argparse

from data_tools.assembly import WritingOptions


def add_writing(parser: argparse.ArgumentParser) -> None:
    """What every command that writes shards takes."""
    parser.add_argument("--shard-size", type=positive, default=1000, help="samples of a shard")
    parser.add_argument("--overwrite", action="store_true", help="replace the shards in --out")
    parser.add_argument("--workers", type=positive, default=1, help="processes")


def add_assembling(parser: argparse.ArgumentParser) -> None:
    """What every command that takes picture files into shards takes; see `writing_options`."""
    parser.add_argument("--resize", type=positive, help="shorter side in pixels, as JPEG")
    parser.add_argument("--strict", action="store_true", help="stop at a missing or bad picture")
    add_writing(parser)


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """How to read a table of captions, where it isn't to be recognised."""
    recognised = parser.add_argument_group("recognised, unless given")
    recognised.add_argument("--encoding", default="", help="utf-8, utf-16, latin-1, ...")
    recognised.add_argument("--delimiter", default="", help="tab, comma, semicolon, bar, or it")
    recognised.add_argument("--image-column", default="", help="names the picture's file")
    recognised.add_argument("--caption-column", default="", help="holds the caption")


def writing_options(options: argparse.Namespace) -> WritingOptions:
    """From what `add_assembling` added."""
    return WritingOptions(
        shard_size=options.shard_size,
        resize=options.resize,
        strict=options.strict,
        overwrite=options.overwrite,
        workers=options.workers,
    )


def positive(text: str) -> int:
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number
