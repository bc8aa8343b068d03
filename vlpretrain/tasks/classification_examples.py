"""Pictures for the report: some whose class was found, some whose wasn't.

Shapes: N pictures, K classes shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from vlpretrain.tasks.classification_judged import Judged
from vlpretrain.tasks.classification_set import LabelledSet

# Of each kind.
EXAMPLES = 6


def write_examples(
    judged: Judged, pictures: LabelledSet, classes: tuple[str, ...], folder: Path
) -> list[dict[str, Any]]:
    """PNG files, and what classification.json says of each."""
    rows = [*_spread(judged.right_N), *_spread(judged.wrong_N)]
    return [
        {
            "image": _save(pictures, row, folder, f"classification-{number}.png"),
            "label": classes[int(pictures.label_N[row])],
            "top": _top(judged, row, classes),
        }
        for number, row in enumerate(rows)
    ]


def _spread(kind_N: Tensor) -> list[int]:
    """Rows that are spread over all of a kind, so that no class fills the page."""
    rows = kind_N.nonzero().squeeze(1).tolist()
    wanted = min(EXAMPLES, len(rows))
    return [rows[number * len(rows) // wanted] for number in range(wanted)]


def _top(judged: Judged, row: int, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    best, scores = judged.best_NK[row].tolist(), judged.score_NK[row].tolist()
    return [
        {"name": classes[place], "score": score} for place, score in zip(best, scores, strict=True)
    ]


def _save(pictures: LabelledSet, row: int, folder: Path, name: str) -> str:
    (pixels_CHW,) = pictures.take([row]).pixels_BCHW
    Image.fromarray(pixels_CHW.permute(1, 2, 0).contiguous().numpy()).save(folder / name)
    return name
