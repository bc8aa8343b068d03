"""The commands' arguments and what they print. A user's mistake ends with exit code 2."""

from __future__ import annotations

import argparse
import errno
import sys
from pathlib import Path
from typing import TypeAlias

from data_tools.caption_files import FORMATS
from data_tools.caption_rows import CaptionOptions
from data_tools.common_arguments import (
    add_assembling,
    add_table_options,
    add_writing,
    positive,
    writing_options,
)
from data_tools.convert.arguments import add_convert, run_convert
from data_tools.inspection import inspect_shards
from data_tools.make import MakeOptions, make_shards
from data_tools.overlap import report_overlap
from data_tools.reading import open_shards, shard_problems
from data_tools.scenes import SPLITS
from data_tools.subset import UNITS, SubsetOptions, write_subset
from data_tools.synth import SynthOptions, synthesise
from data_tools.validation import validate_shards
from vlpretrain.errors import UserError

SHARDS_HELP = "a folder of shards, a brace pattern, one .tar, or a text file that lists shards"


def main(arguments: list[str]) -> int:
    """Runs one command; 0 good, 1 problems found in the data, 2 a mistake in what was asked."""
    options = build_parser().parse_args(arguments)
    try:
        return COMMANDS[options.command](options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        place = error.filename or (options.out if "out" in options else "")
        fix = FIXES.get(error.errno or 0, "check the files and folders that were named")
        problem = UserError(error.strerror or str(error), where=str(place or ""), fix=fix)
        print(f"error: {problem}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped; nothing half-written is left", file=sys.stderr)
        return 130  # as shells count a keyboard interrupt
    return 2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_tools", description="Make, look at and check image-text shards."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_synth(commands)
    _add_make(commands)
    add_convert(commands)
    _add_index(commands)
    _add_inspect(commands)
    _add_validate(commands)
    _add_overlap(commands)
    _add_subset(commands)
    _add_tokenizer(commands)
    return parser


def _synth(options: argparse.Namespace) -> int:
    synth = SynthOptions(
        samples=options.samples,
        seed=options.seed,
        split=options.split,
        image_size=options.image_size,
        shard_size=options.shard_size,
    )
    shards = synthesise(options.out, synth, overwrite=options.overwrite, workers=options.workers)
    print(f"{options.samples:,} samples in {shards} shards: {options.out}")
    return 0


def _make(options: argparse.Namespace) -> int:
    reading = CaptionOptions(
        format=options.format,
        encoding=options.encoding,
        delimiter=options.delimiter,
        image_column=options.image_column,
        caption_column=options.caption_column,
    )
    making = MakeOptions(options.split, options.only, writing_options(options))
    report = make_shards(options.images, options.captions, options.out, reading, making)
    print("\n".join([*report.lines(), f"written to {options.out}"]))
    return 0


def _index(options: argparse.Namespace) -> int:
    source = open_shards(options.shards)
    problems = shard_problems(source)
    for problem in problems:
        print(f"{problem.shard}: {problem.key or '-'}: {problem.reason}")
    samples, shards = int(source.sizes.sum()), len(source.shards)
    print(f"{samples:,} samples in {shards} shards, {len(problems)} problems")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    print(inspect_shards(options.shards, options.out))
    return 0


def _validate(options: argparse.Namespace) -> int:
    return validate_shards(options.shards, workers=options.workers)


def _subset(options: argparse.Namespace) -> int:
    chosen = SubsetOptions(
        share=options.share,
        unit=options.of,
        seed=options.seed,
        shard_size=options.shard_size,
        overwrite=options.overwrite,
    )
    print(write_subset(options.shards, options.out, chosen))
    return 0


def _overlap(options: argparse.Namespace) -> int:
    print(report_overlap(options.training, options.evaluation, options.out, options.workers))
    return 0


def _tokenizer(options: argparse.Namespace) -> int:
    # Its libraries take seconds to import, and no other command needs them.
    from data_tools.tokenizer import train_tokenizer

    words = train_tokenizer(
        options.shards, options.out, options.vocab_size, overwrite=options.overwrite
    )
    print(f"a vocabulary of {words:,} word pieces: {options.out}")
    return 0


COMMANDS = {
    "synth": _synth,
    "make": _make,
    "convert": run_convert,
    "index": _index,
    "inspect": _inspect,
    "validate": _validate,
    "overlap": _overlap,
    "subset": _subset,
    "tokenizer": _tokenizer,
}

# By the system's number of an error.
FIXES = {
    errno.ENOSPC: "the disk is full: free some space, or name a folder on another disk",
    errno.EACCES: "ask for the permission, or name another folder",
    errno.EROFS: "name a folder that can be written",
}

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_synth(commands: Commands) -> None:
    text = "Render the embedded data set: scenes of shapes, with captions and questions."
    parser = commands.add_parser("synth", help=text, description=text)
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--samples", type=positive, required=True, help="how many scenes")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes")
    parser.add_argument("--split", default="train", help=f"one of {', '.join(SPLITS)}")
    parser.add_argument("--image-size", type=positive, default=96, help="side in pixels")
    add_writing(parser)


def _add_make(commands: Commands) -> None:
    text = "Make shards of a folder of pictures and a caption file."
    parser = commands.add_parser("make", help=text, description=text)
    parser.add_argument("--images", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--captions", type=Path, required=True, help="the caption file")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--format", default="", help=f"one of {', '.join(FORMATS)}; recognised")
    add_table_options(parser)
    parser.add_argument("--split", default="", help="take this split alone (train, val, ...)")
    parser.add_argument("--only", type=Path, help="take the pictures that this file lists alone")
    add_assembling(parser)


def _add_index(commands: Commands) -> None:
    text = "Write the index beside each shard, and name what is broken in the tars."
    parser = commands.add_parser("index", help=text, description=text)
    parser.add_argument("shards", help=SHARDS_HELP)


def _add_inspect(commands: Commands) -> None:
    text = "Count what shards hold: sizes, formats, captions, duplicates; draw a contact sheet."
    parser = commands.add_parser("inspect", help=text, description=text)
    parser.add_argument("shards", help=SHARDS_HELP)
    parser.add_argument("--out", type=Path, help="folder for inspect.json and contact_sheet.png")


def _add_validate(commands: Commands) -> None:
    text = "Read and decode everything; name every problem. Exit code 1 if there is any."
    parser = commands.add_parser("validate", help=text, description=text)
    parser.add_argument("shards", help=SHARDS_HELP)
    parser.add_argument("--workers", type=positive, default=1, help="processes")


def _add_subset(commands: Commands) -> None:
    text = "Keep a share of the samples, or of the questions: the same ones every time."
    parser = commands.add_parser("subset", help=text, description=text)
    parser.add_argument("shards", help=SHARDS_HELP)
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--share", type=float, required=True, help="0.05 keeps about 5 %%")
    parser.add_argument("--of", choices=UNITS, default="samples", help="what is counted")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another choice")
    add_writing(parser)


def _add_overlap(commands: Commands) -> None:
    text = "Say how much of an evaluation set is in a training set: pictures, captions, questions."
    more = """ Pictures are compared by a hash and a thumbnail, so that scaled and re-encoded copies
    are found; texts by their letters and digits alone. What was read of a shard is kept beside it
    as SHARD.tar.fpr."""
    parser = commands.add_parser("overlap", help=text, description=text + more)
    parser.add_argument("training", metavar="A", help=f"training: {SHARDS_HELP}")
    parser.add_argument("evaluation", metavar="B", help="evaluation: likewise")
    parser.add_argument("--out", type=Path, help="a JSON file for all pairs")
    parser.add_argument("--workers", type=positive, default=1, help="processes")


def _add_tokenizer(commands: Commands) -> None:
    text = "Train a WordPiece tokenizer on the captions of shards."
    parser = commands.add_parser("tokenizer", help=text, description=text)
    parser.add_argument("shards", help=SHARDS_HELP)
    parser.add_argument("--out", type=Path, required=True, help="folder for the tokenizer")
    parser.add_argument("--vocab-size", type=positive, default=8000, help="most word pieces")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder")
