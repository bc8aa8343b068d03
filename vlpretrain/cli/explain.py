"""`vlpretrain explain IMAGE ... "text" --model EXPORT`: where the model looked, word by word."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vlpretrain.cli.arguments import ExplainOptions, read_explain_options
from vlpretrain.errors import UserError
from vlpretrain.models.inputs import load_pixels
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.explain import Judge, WordMaps, answer_judge, match_judge, word_maps
from vlpretrain.tasks.explain_picture import TILE, Explained, draw_sheet, write_png, write_text


def explain(arguments: Sequence[str]) -> int:
    """Writes a PNG for each picture and one JSON file for all; a picture that can't be read is
    skipped, named and counted."""
    options = read_explain_options(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = VLModel.from_pretrained(options.model, device)
    judge = answer_judge(model) if options.question else match_judge(model)
    entries: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for number, image in enumerate(options.images):
        try:
            pixels_1CHW = load_pixels([image], model.vision.image_size)
        except UserError as error:
            skipped.append({"image": _printable(image), "reason": _printable(error.problem)})
            print("skipped {image}: {reason}".format(**skipped[-1]), file=sys.stderr)
            continue
        entries.append(_explain_one(model, judge, pixels_1CHW, options, number))
    return _finish(options, entries, skipped)


def _explain_one(
    model: VLModel, judge: Judge, pixels_1CHW: torch.Tensor, options: ExplainOptions, number: int
) -> dict[str, Any]:
    """Writes a picture's PNG and prints what was found; returns its entry of the JSON file."""
    image, out = options.images[number], options.pngs[number]
    maps = word_maps(model, pixels_1CHW, options.text, judge, options.layer)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_png(draw_sheet(Explained(load_pixels([image], TILE), maps)), out)
    found = "match" if maps.answer is None else maps.answer
    chance = "" if maps.probability is None else f" {100 * maps.probability:.1f} %"
    print(f"{_printable(image)}: {found}{chance}\n  {_printable(str(out))}")
    return _entry(_printable(image), out, maps)


def _entry(image: str, out: Path, maps: WordMaps) -> dict[str, Any]:
    return {
        "image": image,
        "picture": _printable(out.name),
        "text": maps.text,
        "answer": maps.answer,
        "probability": maps.probability,
        "score": maps.score,
        "layer": maps.layer,
        "whole": _numbers(maps.whole_Bhw[0]),
        "words": [
            {"word": word, "share": share, "map": _numbers(map_hw)}
            for word, share, map_hw in zip(
                maps.words, maps.share_L.tolist(), maps.map_BLhw[0], strict=True
            )
        ],
    }


def _printable(name: str) -> str:
    """A file's name may be bytes that are no text."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _numbers(map_hw: torch.Tensor) -> list[list[float]]:
    """With four digits: more would be noise."""
    return [[float(f"{value:.4g}") for value in row] for row in map_hw.tolist()]


def _finish(
    options: ExplainOptions, entries: list[dict[str, Any]], skipped: list[dict[str, str]]
) -> int:
    if not entries:
        raise UserError(
            f"none of {len(skipped)} pictures could be read",
            where=", ".join(options.images[:3]),
            fix="a JPEG, PNG or WebP",
        )
    content = {"examples": entries, "skipped": skipped}
    write_text(json.dumps(content, ensure_ascii=False), options.json)
    print(f"the maps as numbers: {options.json}")
    if skipped:
        print(f"{len(skipped)} of {len(options.images)} pictures skipped: they can't be read")
    return 0
