"""`vlpretrain explain IMAGE ... "text" --model EXPORT`: where the model looked, word by word."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlpretrain.cli.arguments import ExplainOptions, read_explain_options
from vlpretrain.errors import UserError
from vlpretrain.models.inputs import load_pixels
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.explain import WordMaps, word_maps
from vlpretrain.tasks.explain_picture import TILE, Explained, draw_sheet, write_png, write_text
from vlpretrain.tasks.judges import Judge, answer_judge, match_judge


def explain(arguments: Sequence[str]) -> int:
    """Writes a PNG for each picture and one JSON file for all; a picture that can't be read is
    skipped, named and counted."""
    options = read_explain_options(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = VLModel.from_pretrained(options.model, device)
    judge = _judge(model, options)
    groups = _groups(options.images, _pictures_a_text(model, options))
    pngs = _pngs(options, len(groups))
    entries: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for images, png in zip(groups, pngs, strict=True):
        try:
            pixels_BCHW = load_pixels(images, model.vision.image_size)
        except UserError as error:
            skipped.append({"image": _printable(error.where), "reason": _printable(error.problem)})
            print("skipped {image}: {reason}".format(**skipped[-1]), file=sys.stderr)
            continue
        maps = word_maps(model, pixels_BCHW, options.text, judge, options.layer)
        entries.append(_write(images, maps, png))
    return _finish(options, entries, skipped)


def _judge(model: VLModel, options: ExplainOptions) -> Judge:
    if not options.question:
        if model.answerer is not None:
            print(
                "note: the model was fine-tuned for questions, its matching head was not trained "
                "along; --question explains an answer",
                file=sys.stderr,
            )
        return match_judge(model)
    if model.answerer is None or model.reader is None:
        raise UserError(
            "the model answers no questions",
            where=str(options.model),
            fix="explain a match, without --question, or take the export of a VQA fine-tune",
        )
    return answer_judge(model.answerer, model.reader)


def _pictures_a_text(model: VLModel, options: ExplainOptions) -> int:
    if not options.question or model.answerer is None:
        return 1
    return model.answerer.spec.num_pictures


def _groups(images: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """The pictures that are read together."""
    if len(images) % size:
        raise UserError(
            f"{len(images)} pictures for a model that reads {size} with a text",
            where="explain",
            fix=f"{size} pictures, or a multiple",
        )
    return [tuple(images[start : start + size]) for start in range(0, len(images), size)]


def _pngs(options: ExplainOptions, count: int) -> list[Path]:
    """The output itself, or NAME-1.png, NAME-2.png, ... where there are several."""
    out = options.out
    numbered = [out.with_name(f"{out.stem}-{number}{out.suffix}") for number in range(1, count + 1)]
    pngs = [out] if count == 1 else numbered
    images = {Path(image).resolve() for image in options.images}
    if lost := {png.resolve() for png in pngs} & images:
        raise UserError(
            f"the picture {lost.pop().name} would be written over",
            where="--out",
            fix="another name",
        )
    return pngs


def _write(images: Sequence[str], maps: WordMaps, png: Path) -> dict[str, Any]:
    """Writes a PNG and prints what was found; returns an entry of the JSON file."""
    png.parent.mkdir(parents=True, exist_ok=True)
    write_png(draw_sheet(Explained(load_pixels(images, TILE), maps)), png)
    found = "match" if maps.answer is None else maps.answer
    chance = "" if maps.probability is None else f" {100 * maps.probability:.1f} %"
    names = [_printable(image) for image in images]
    print(f"{', '.join(names)}: {found}{chance}\n  {_printable(str(png))}")
    return {
        "image": names[0] if len(names) == 1 else names,
        "picture": _printable(png.name),
        "text": maps.text,
        "answer": maps.answer,
        "probability": maps.probability,
        "score": maps.score,
        "layer": maps.layer,
        "whole": _numbers(maps.whole_Bhw),
        "words": [
            {"word": word, "share": share, "maps": _numbers(map_Bhw)}
            for word, share, map_Bhw in zip(
                maps.words, maps.share_L.tolist(), maps.map_BLhw.unbind(dim=1), strict=True
            )
        ],
    }


def _numbers(map_Bhw: Tensor) -> list[list[list[float]]]:
    """A map for each picture, with four digits: more would be noise."""
    return [
        [[float(f"{value:.4g}") for value in row] for row in map_hw] for map_hw in map_Bhw.tolist()
    ]


def _printable(name: str) -> str:
    """A file's name may be bytes that are no text."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _finish(
    options: ExplainOptions, entries: list[dict[str, Any]], skipped: list[dict[str, str]]
) -> int:
    if not entries:
        raise UserError(
            f"no picture could be read; {len(skipped)} skipped",
            where=", ".join(_printable(image) for image in options.images[:3]),
            fix="a JPEG, PNG or WebP",
        )
    listing = options.out.with_suffix(".json")
    content = {"examples": entries, "skipped": skipped}
    write_text(json.dumps(content, ensure_ascii=False), listing)
    print(f"the maps as numbers: {_printable(str(listing))}")
    if skipped:
        print(f"{len(skipped)} pictures skipped: they can't be read")
    return 0
