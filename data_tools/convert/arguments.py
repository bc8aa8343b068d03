"""The arguments of `convert`, and what it prints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Protocol

from data_tools.caption_rows import CaptionOptions
from data_tools.common_arguments import add_assembling, add_table_options, writing_options
from data_tools.convert.captions import captions_reading, convert_captions
from data_tools.convert.folders import convert_folders
from data_tools.convert.formats import CAPTION_FORMATS, QUESTION_FORMATS
from data_tools.convert.questions import QuestionOptions, convert_questions
from data_tools.make import MakeOptions

DESCRIPTION = """\
Make shards of a data set as it is downloaded. `convert FORMAT --help` says which of its files to
name. What is missing is counted and named, the size of a published split is checked, and nothing
half-written is left behind."""

FOLDERS_TITLE = "class folders: DIR/CLASS/picture.jpg, the class is the label"
FOLDERS_FILES = """
--images       a folder with a folder for each class; its name is the class's name"""


class Report(Protocol):
    """What a conversion tells."""

    def lines(self) -> list[str]: ...


def add_convert(commands: Any) -> None:
    """Adds the command, and a command below it for each format."""
    text = "Make shards of VQAv2, GQA, COCO, Flickr30k, NLVR2 and other downloads."
    parser = _described(commands, "convert", text, DESCRIPTION)
    formats = parser.add_subparsers(dest="format_name", required=True, metavar="FORMAT")
    for name, questions in QUESTION_FORMATS.items():
        _add_questions(_add_format(formats, name, questions.title, questions.files), name)
    for name, captions in CAPTION_FORMATS.items():
        _add_captions(_add_format(formats, name, captions.title, captions.files), name)
    folders = _add_format(formats, "folders", FOLDERS_TITLE, FOLDERS_FILES)
    folders.add_argument("--images", type=Path, required=True, help="the folder of class folders")
    folders.add_argument("--split", default="", help="the split's name, kept in the samples")
    for format_parser in formats.choices.values():
        format_parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
        add_assembling(format_parser)


def run_convert(options: argparse.Namespace) -> int:
    """Runs the conversion that was asked for, and prints what it tells."""
    report = _convert(options)
    print("\n".join([*report.lines(), f"written to {options.out}"]))
    return 0


def _convert(options: argparse.Namespace) -> Report:
    name, writing = options.format_name, writing_options(options)
    if name in QUESTION_FORMATS:
        asking = QuestionOptions(
            questions=options.questions,
            annotations=options.annotations if "annotations" in options else None,
            images=options.images,
            split=options.split,
            allow_unanswered=options.allow_unanswered,
            writing=writing,
        )
        return convert_questions(name, QUESTION_FORMATS[name].read, options.out, asking)
    if name in CAPTION_FORMATS:
        making = MakeOptions(split=options.split, only=options.only, writing=writing)
        files = (options.images, options.captions)
        return convert_captions(name, files, options.out, _reading(options), making)
    return convert_folders(options.images, options.out, options.split, writing)


def _reading(options: argparse.Namespace) -> CaptionOptions:
    if CAPTION_FORMATS[options.format_name].is_table:
        return CaptionOptions(
            encoding=options.encoding,
            delimiter=options.delimiter,
            image_column=options.image_column,
            caption_column=options.caption_column,
        )
    return captions_reading(CaptionOptions(), options.restval)


def _add_format(formats: Any, name: str, title: str, files: str) -> argparse.ArgumentParser:
    capital = title[0].upper() + title[1:]
    return _described(formats, name, title, f"{capital}.\n{files}")


def _described(commands: Any, name: str, text: str, description: str) -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    return commands.add_parser(
        name, help=text, description=description, formatter_class=layout, allow_abbrev=False
    )


def _add_questions(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--questions", type=Path, required=True, help="the question file")
    if QUESTION_FORMATS[name].has_annotations:
        parser.add_argument("--annotations", type=Path, help="the file of the answers")
    images = "folder of the pictures; without it, `images` beside the questions"
    parser.add_argument("--images", type=Path, help=images)
    split = "the split's name, where the files and their names don't say it"
    parser.add_argument("--split", default="", help=split)
    unanswered = "take questions without an answer too, as of test sets whose answers are kept back"
    parser.add_argument("--allow-unanswered", action="store_true", help=unanswered)


def _add_captions(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--captions", type=Path, required=True, help="the caption file")
    parser.add_argument("--images", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--split", default="", help="take this split alone (train, val, ...)")
    parser.add_argument("--only", type=Path, help="take the pictures that this file lists alone")
    if CAPTION_FORMATS[name].has_restval:
        restval = "what Karpathy's split `restval` counts as: train (default), or a split apart"
        parser.add_argument("--restval", choices=("train", "apart"), default="train", help=restval)
    if CAPTION_FORMATS[name].is_table:
        add_table_options(parser)
