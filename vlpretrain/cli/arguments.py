"""What the commands read from their command lines."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vlpretrain.config.load import load_config, override
from vlpretrain.config.schema import RunConfig
from vlpretrain.errors import UserError


@dataclass(frozen=True)
class LaunchOptions:
    """Where a run takes place, and the arguments that are left for the run itself."""

    processes: int  # on this machine; 0: one for every GPU, or one without any
    hostfile: str  # DeepSpeed's list of machines; empty: this one
    rest: list[str]


def read_launch_options(arguments: Sequence[str]) -> LaunchOptions:
    """Takes `--processes` and `--hostfile` out of the arguments, wherever they stand."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--processes", type=_count, default=0)
    parser.add_argument("--hostfile", default="")
    known, rest = parser.parse_known_args(list(arguments))
    return LaunchOptions(known.processes, known.hostfile, rest)


@dataclass(frozen=True)
class DoctorOptions:
    """For how many ranks a run is examined, and the arguments that are left."""

    ranks: int  # 0: one for every GPU of this machine, or one without any
    rest: list[str]


def read_doctor_options(arguments: Sequence[str]) -> DoctorOptions:
    """Takes `--ranks` out of the arguments, wherever it stands."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--ranks", type=_count, default=0)
    known, rest = parser.parse_known_args(list(arguments))
    return DoctorOptions(known.ranks, rest)


@dataclass(frozen=True)
class ExplainOptions:
    """What to explain, and where to."""

    images: tuple[str, ...]
    text: str
    model: Path  # an export folder
    out: Path  # a PNG file
    layer: int | None  # of the fusion, from 0; None: the default
    question: bool  # the text is a question


def read_explain_options(arguments: Sequence[str]) -> ExplainOptions:
    """`IMAGE [IMAGE ...] TEXT --model EXPORT [--out PNG] [--layer N] [--question]`.

    Raises:
        UserError: something is missing, the text is empty, or the output is no PNG file.
    """
    usage = 'vlpretrain explain IMAGE [IMAGE ...] "text" --model EXPORT'
    parser = _Parser(prog="vlpretrain explain", allow_abbrev=False)
    parser.add_argument("given", nargs="+", metavar="IMAGE ... TEXT", help="pictures, then a text")
    parser.add_argument("--model", type=Path, required=True, help="an export folder")
    parser.add_argument("--out", type=Path, default=Path("explain.png"), help="the PNG to write")
    parser.add_argument("--layer", type=int, help="of the fusion, 0 the first")
    parser.add_argument("--question", action="store_true", help="explain the answer to the text")
    options = parser.parse_intermixed_args(list(arguments))
    *images, text = options.given
    if not images or os.path.isfile(text):
        raise UserError("explain needs a picture, and a text behind it", fix=usage)
    check_text(text)
    if options.out.suffix.lower() != ".png" or options.out.is_dir():
        raise UserError(f"{str(options.out)!r} is no PNG file", where="--out", fix="explain.png")
    return ExplainOptions(
        tuple(images), text, options.model, options.out, options.layer, options.question
    )


def check_text(text: str) -> None:
    """Refuses a text in which there is nothing to read, and bytes that are no text."""
    if not text.strip():
        raise UserError("the text is empty", fix='a text in quotes: "two dogs on grass"')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the text {text!r} is no UTF-8", fix="a terminal set to UTF-8") from error


@dataclass(frozen=True)
class IndexOptions:
    """Which pictures are put into which index."""

    folder: Path
    model: Path  # an export folder
    out: Path
    batch: int  # pictures that the tower sees at once
    faiss: bool  # an approximate index beside


DEFAULT_INDEX = Path("index.safetensors")


def read_index_options(arguments: Sequence[str]) -> IndexOptions:
    """`DIR --model EXPORT [--out FILE] [--batch N] [--faiss]`."""
    parser = _Parser(prog="vlpretrain index-images", allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="searched for JPEG, PNG and WebP, with all below")
    parser.add_argument("--model", type=Path, required=True, help="an export folder")
    parser.add_argument("--out", type=Path, default=DEFAULT_INDEX, help="the index to write")
    parser.add_argument("--batch", type=_at_least_one, default=32, help="pictures at once")
    parser.add_argument("--faiss", action="store_true", help="for millions: FILE.faiss beside")
    return IndexOptions(**vars(parser.parse_args(list(arguments))))


@dataclass(frozen=True)
class SearchOptions:
    """What is searched for, and where the answers go."""

    text: str  # empty: `image` is the query
    image: Path | None
    index: Path
    model: Path | None  # None: the one that made the index
    top: int
    rerank: int  # first answers that the fusion puts in order; 0: none
    out: Path  # a PNG file
    faiss: bool


def read_search_options(arguments: Sequence[str]) -> SearchOptions:
    """`TEXT | --image PIC [--index FILE] [--top N] [--rerank K] [--out PNG] ...`.

    Raises:
        UserError: no query or two, or options that don't go together.
    """
    parser = _Parser(prog="vlpretrain search", allow_abbrev=False)
    parser.add_argument("text", nargs="?", help="what the pictures should show")
    parser.add_argument("--image", type=Path, help="a picture to find similar ones to")
    parser.add_argument("--index", type=Path, default=DEFAULT_INDEX, help="made by index-images")
    parser.add_argument("--model", type=Path, help="an export folder; default: the index's own")
    parser.add_argument("--top", type=_at_least_one, default=5, help="how many answers")
    parser.add_argument("--rerank", type=_at_least_one, default=0, metavar="K")
    parser.add_argument("--out", type=Path, default=Path("answer.png"), help="the PNG to write")
    parser.add_argument("--faiss", action="store_true", help="search the approximate index")
    options = parser.parse_args(list(arguments))
    if (options.text is None) == (options.image is None):
        raise UserError(
            "search needs a text, or a picture as --image, and not both",
            fix='vlpretrain search "two dogs on grass" --top 5',
        )
    if options.text is not None:
        check_text(options.text)
    elif options.rerank:
        raise UserError("--rerank compares pictures with a text", fix="leave it out with --image")
    if options.out.suffix.lower() != ".png" or options.out.is_dir():
        raise UserError(f"{str(options.out)!r} is no PNG file", where="--out", fix="answer.png")
    return SearchOptions(**{**vars(options), "text": options.text or ""})


@dataclass(frozen=True)
class ReportOptions:
    """Which runs a report is of, and where it is written."""

    runs: list[Path]
    chain: bool  # also the runs that these began from
    out: Path | None  # None: in the last run's folder


def read_report_options(arguments: Sequence[str]) -> ReportOptions:
    """`RUN [RUN ...] [--chain] [--out FILE]`.

    Raises:
        UserError: no run is named, or an option is unknown.
    """
    usage = "vlpretrain report RUN [RUN ...] [--chain] [--out FILE]"
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--chain", action="store_true")
    parser.add_argument("--out", type=Path)
    known, rest = parser.parse_known_intermixed_args(list(arguments))
    unknown = [argument for argument in rest if argument.startswith("-")]
    if unknown:
        raise UserError(f"report does not know {unknown[0]!r}", fix=usage)
    if not known.runs:
        raise UserError("report needs a run folder", fix=usage)
    return ReportOptions(known.runs, known.chain, known.out)


def read_run_config(arguments: Sequence[str], prog: str) -> RunConfig:
    """`CONFIG [--section.field VALUE ...]` -> configuration; `--help` alone lists the fields."""
    if arguments and not arguments[0].startswith("-"):
        return load_config(arguments[0], arguments[1:], prog=f"{prog} CONFIG")
    if "--help" in arguments or "-h" in arguments:
        return override(RunConfig(), ["--help"], prog=f"{prog} CONFIG")
    raise UserError(
        "the configuration file comes first", fix=f"{prog} CONFIG [--optim.lr 3e-4 ...]"
    )


class _Parser(argparse.ArgumentParser):
    """argparse, its mistakes raised as the project's own."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of processes")
    return number
