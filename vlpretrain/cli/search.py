"""`vlpretrain search "two dogs on grass"`: pictures of an index, by a text or by a picture.

Shapes: C channels, H W pixels, E embedding width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlpretrain.cli.answer_sheet import PICTURE, Tile, draw_answers
from vlpretrain.cli.arguments import SearchOptions, read_search_options
from vlpretrain.cli.faiss_index import search_faiss
from vlpretrain.cli.index_images import read_picture, say
from vlpretrain.errors import UserError
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.picture_index import (
    Hit,
    PictureIndex,
    load_index,
    new_file,
    printable,
    weights_fingerprint,
)

# Nearest pictures that are looked at beyond those asked for, as some may be gone.
SPARE = 100


@dataclass(frozen=True, slots=True)
class Answer:
    """A picture that was found and can be read."""

    path: Path
    name: str
    score: float  # the cosine
    shown_CHW: Tensor  # its middle square, as the model sees it
    match: float | None = None  # the matching head's probability, where it was asked


@dataclass(frozen=True, slots=True)
class Skipped:
    """A picture of the index that can't be read any more."""

    file: str
    reason: str


def search(arguments: Sequence[str]) -> int:
    """Prints the answers as JSON and draws them on a sheet. A picture that can't be read any more
    is skipped, named and counted; the next one takes its place."""
    options = read_search_options(arguments)
    index = load_index(options.index)
    model = open_model(options, index)
    hits = find_hits(options, index, embed_query(options, model))
    answers, skipped = look_at(hits, index, max(options.top, options.rerank))
    if not answers:
        raise UserError(
            f"none of the {len(skipped)} nearest pictures can be read any more",
            where=str(index.folder),
            fix="vlpretrain index-images again",
        )
    answers = rerank(model, options, answers)[: options.top]
    draw(options, answers)
    print(json.dumps(listing(options, index, answers, skipped), indent=2, ensure_ascii=False))
    if skipped:
        say(f"{len(skipped)} pictures skipped: they can't be read")
    return 0


def open_model(options: SearchOptions, index: PictureIndex) -> VLModel:
    """The model that made the index.

    Raises:
        UserError: it is not there any more, or the one that was given is another.
    """
    folder = options.model or index.model
    if weights_fingerprint(folder) != index.fingerprint:
        raise UserError(
            f"the index was made by another model than {folder}: the weights differ",
            where=str(options.index),
            fix=f"vlpretrain index-images {index.folder} --model {folder} --out {options.index}",
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return VLModel.from_pretrained(folder, device)


def embed_query(options: SearchOptions, model: VLModel) -> Tensor:
    """The query's embedding [E].

    Raises:
        UserError: the query is a picture that can't be read.
    """
    if options.image is None:
        return model.encode_text(options.text)[0].cpu()
    pixels_CHW = read_picture(options.image, model.vision.image_size)
    if isinstance(pixels_CHW, str):
        raise UserError(pixels_CHW, where=str(options.image), fix="a JPEG, PNG or WebP")
    return model.encode_image(pixels_CHW)[0].cpu()


def find_hits(options: SearchOptions, index: PictureIndex, query_E: Tensor) -> list[Hit]:
    """The nearest pictures, some to spare."""
    count = max(options.top, options.rerank) + SPARE
    if options.faiss:
        return search_faiss(index, options.index, query_E, count)
    return index.search(query_E, count)


def look_at(
    hits: Sequence[Hit], index: PictureIndex, wanted: int
) -> tuple[list[Answer], list[Skipped]]:
    """The first `wanted` that can be read, and those before that can't."""
    answers: list[Answer] = []
    skipped: list[Skipped] = []
    for hit in hits:
        if len(answers) == wanted:
            break
        path, name = index.path_of(hit.row), printable(index.files[hit.row].name)
        shown_CHW = read_picture(path, PICTURE)
        if isinstance(shown_CHW, str):
            say(f"skipped {name}: {shown_CHW}")
            skipped.append(Skipped(name, shown_CHW))
        else:
            answers.append(Answer(path, name, hit.score, shown_CHW))
    return answers, skipped


def rerank(model: VLModel, options: SearchOptions, answers: list[Answer]) -> list[Answer]:
    """The first answers in the order of the matching head, the others behind them."""
    first, rest = answers[: options.rerank], answers[options.rerank :]
    pixels = [read_picture(answer.path, model.vision.image_size) for answer in first]
    readable = [(a, p) for a, p in zip(first, pixels, strict=True) if isinstance(p, Tensor)]
    if not readable:
        return answers
    match_P = model.match([p for _, p in readable], [options.text] * len(readable)).tolist()
    judged = [replace(a, match=match) for (a, _), match in zip(readable, match_P, strict=True)]
    return [*sorted(judged, key=lambda answer: -(answer.match or 0.0)), *rest]


def draw(options: SearchOptions, answers: Sequence[Answer]) -> None:
    title = options.text or f"pictures like {printable(str(options.image))}"
    tiles = []
    for answer in answers:
        match = "" if answer.match is None else f", match {100 * answer.match:.1f} %"
        tiles.append(Tile(answer.shown_CHW, answer.name, f"cosine {answer.score:.3f}{match}"))
    with new_file(options.out) as partial:
        draw_answers(title, tiles).save(partial, format="PNG")
    say(f"{options.out}: the answers as a picture")


def listing(
    options: SearchOptions,
    index: PictureIndex,
    answers: Sequence[Answer],
    skipped: Sequence[Skipped],
) -> dict[str, Any]:
    query = {"text": options.text} if options.text else {"image": printable(str(options.image))}
    return {
        "query": query,
        "index": printable(str(options.index)),
        "num_images": len(index.files),
        "exact": not options.faiss,
        "reranked": options.rerank,
        "answers": [
            {
                "rank": rank,
                "file": answer.name,
                "path": printable(str(answer.path)),
                "score": answer.score,
                **({} if answer.match is None else {"match": answer.match}),
            }
            for rank, answer in enumerate(answers, start=1)
        ],
        "skipped": [{"file": one.file, "reason": one.reason} for one in skipped],
        "picture": printable(str(options.out)),
    }
