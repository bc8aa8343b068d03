"""retrieval.json and its pictures: what a report shows of a retrieval.

Shapes: Q queries, C colours, H W pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from vlpretrain.tasks.ranking import TIE_RULE
from vlpretrain.tasks.retrieval_figures import chance, interval, measures, recalls
from vlpretrain.tasks.retrieval_search import SHOWN, Answer, CurvePoint, Direction, Found
from vlpretrain.tasks.retrieval_set import RetrievalSet

FILE = "retrieval.json"
# Queries of each kind that are shown, for each direction.
RIGHT, WRONG = 3, 3


def write_files(
    found: Found, data: RetrievalSet, overlap: dict[str, Any] | None, folder: Path
) -> None:
    """PNG files, and last retrieval.json that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    listing = {
        "num_images": len(data.keys),
        "num_texts": len(data.texts),
        "images_without_text": len(data.keys) - len(data.asking_images),
        "captions_per_image": len(data.texts) / len(data.asking_images),
        "tie_rule": TIE_RULE,
        "order_rule": found.order_rule,
        "directions": {way: _measured(d, found) for way, d in found.directions.items()},
        "chance": {way: chance(d) for way, d in found.directions.items()},
        "curve": [_point(point, found) for point in found.curve],
        "examples": _Examples(found, data, folder).write(),
        "overlap": overlap,
    }
    partial = folder / f"{FILE}.partial"
    partial.write_text(json.dumps(listing, indent=2, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, folder / FILE)


def _point(point: CurvePoint, found: Found) -> dict[str, float]:
    firsts = {way: recalls(d.ranks(point.k))["recall@1"] for way, d in found.directions.items()}
    return {"k": point.k, **firsts, "seconds": point.seconds, "pairs": point.num_pairs}


def _measured(direction: Direction, found: Found) -> dict[str, dict[str, Any]]:
    measured = {"dual": _ranked(direction, 0)}
    if found.largest_k:
        measured["reranked"] = {**_ranked(direction, found.largest_k), "k": found.largest_k}
    return measured


def _ranked(direction: Direction, k: int) -> dict[str, Any]:
    return {**measures(direction.ranks(k)), "interval@1": interval(direction, k)}


class _Examples:
    """Queries that were answered rightly and wrongly, spread evenly over the set."""

    def __init__(self, found: Found, data: RetrievalSet, folder: Path) -> None:
        self.found, self.data, self.folder = found, data, folder
        self.pictures: dict[int, str] = {}  # file names by row

    def write(self) -> dict[str, list[dict[str, Any]]]:
        examples = {
            "image_to_text": [
                {"image": self._picture(image), "rank": rank, "texts": self._texts(answers)}
                for image, rank, answers in self._chosen(self.found.image_to_text)
            ],
            "text_to_image": [
                {"text": self.data.texts[text], "rank": rank, "images": self._images(answers)}
                for text, rank, answers in self._chosen(self.found.text_to_image)
            ],
        }
        self._save_pictures()
        return examples

    def _chosen(self, direction: Direction) -> list[tuple[int, int, list[Answer]]]:
        """Row of the query, rank of its first right answer, and its first answers."""
        rank_Q = direction.ranks(self.found.largest_k)
        right = (rank_Q == 1).nonzero().squeeze(1).tolist()
        wrong = (rank_Q > 1).nonzero().squeeze(1).tolist()
        return [
            (
                int(direction.query_row_Q[query]),
                int(rank_Q[query]),
                direction.answers(query, SHOWN),
            )
            for query in _spread(right, RIGHT) + _spread(wrong, WRONG)
        ]

    def _texts(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        return [
            {"text": self.data.texts[answer.row], "score": answer.score, "right": answer.right}
            for answer in answers
        ]

    def _images(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        return [
            {"image": self._picture(answer.row), "score": answer.score, "right": answer.right}
            for answer in answers
        ]

    def _picture(self, row: int) -> str:
        return self.pictures.setdefault(row, f"retrieval-{row}.png")

    def _save_pictures(self) -> None:
        pixels_nCHW = self.data.load_pixels(list(self.pictures)) if self.pictures else ()
        for name, pixels_CHW in zip(self.pictures.values(), pixels_nCHW, strict=True):
            Image.fromarray(_channels_last(pixels_CHW)).save(self.folder / name)


def _channels_last(pixels_CHW: Tensor) -> Any:
    return pixels_CHW.permute(1, 2, 0).contiguous().numpy()


def _spread(items: list[int], count: int) -> list[int]:
    """At most `count` items, evenly spaced."""
    count = min(count, len(items))
    return [items[place * len(items) // count] for place in range(count)]
