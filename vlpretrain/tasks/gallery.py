"""Pictures of an evaluation for the report: reconstructions, and pairs that stand out.

Shapes: B samples, C colours, H W pixels, P pairs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlpretrain.metrics.matching import match_probability
from vlpretrain.models.vision import VisionTower
from vlpretrain.objectives.mim import hidden_pixels
from vlpretrain.objectives.pretrain import EvaluationOutput
from vlpretrain.types import Batch

RECONSTRUCTIONS = 6
PAIRS = 6  # of each kind: best and worst matched, most misleading
HIDDEN_GREY = 128


@dataclass(frozen=True, slots=True)
class ShownPair:
    """A picture with a text, and how well the model finds that they match."""

    key: str  # of the picture's sample
    score: float
    matched: bool
    caption: str
    picture_HWC: np.ndarray  # uint8


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """uint8 [H, W, C] each."""

    original: np.ndarray
    masked: np.ndarray
    reconstructed: np.ndarray


class Gallery:
    """Keeps what stands out while batches go by."""

    def __init__(self, vision: VisionTower, read_text: Callable[[Sequence[int]], str]) -> None:
        self.vision = vision
        self.read_text = read_text
        self.reconstructions: list[Reconstruction] = []
        self.best: list[ShownPair] = []
        self.worst: list[ShownPair] = []
        self.misleading: list[ShownPair] = []

    def add(self, batch: Batch, output: EvaluationOutput) -> None:
        for result in output.outputs.values():
            missing = RECONSTRUCTIONS - len(self.reconstructions)
            if result.picture_BCHW is not None and missing:
                shown = reconstruct(batch, result.picture_BCHW, self.vision)
                self.reconstructions += shown[:missing]
        scored = _scored_pairs(output)
        if scored is None:
            return
        for lowest_first, matched, kept in (
            (False, True, self.best),
            (True, True, self.worst),
            (False, False, self.misleading),
        ):
            kept += self._extreme(batch, scored, matched=matched, lowest_first=lowest_first)
            kept.sort(key=lambda pair: pair.score, reverse=not lowest_first)
            del kept[PAIRS:]

    def _extreme(
        self, batch: Batch, scored: ScoredPairs, *, matched: bool, lowest_first: bool
    ) -> list[ShownPair]:
        """The batch's own extreme pairs of one kind."""
        index_P = (scored.counts_P & (scored.match_P == matched)).nonzero().squeeze(1)
        order_P = scored.score_P[index_P].argsort(descending=not lowest_first)[:PAIRS]
        return [self._show(batch, scored, int(pair)) for pair in index_P[order_P]]

    def _show(self, batch: Batch, scored: ScoredPairs, pair: int) -> ShownPair:
        text, image = int(scored.text_row_P[pair]), int(scored.image_row_P[pair])
        return ShownPair(
            key=batch.keys[image],
            score=float(scored.score_P[pair]),
            matched=bool(scored.match_P[pair]),
            caption=self.read_text(batch.text_BT[text][batch.text_valid_BT[text]].tolist()),
            picture_HWC=_picture(batch.pixels_BCHW[image]),
        )

    def write(self, folder: Path) -> None:
        """PNG files, and last evaluation.json that names them."""
        folder.mkdir(parents=True, exist_ok=True)
        shown = {(pair.key, pair.caption) for pair in self.best}
        # In a small set a pair can be among both; it is shown once.
        worst = [pair for pair in self.worst if (pair.key, pair.caption) not in shown]
        listing = {
            "reconstructions": [
                _save_reconstruction(triple, folder, number)
                for number, triple in enumerate(self.reconstructions)
            ],
            "pairs": [
                _save_pair(pair, folder, f"pair-{number}.png")
                for number, pair in enumerate([*self.best, *worst, *self.misleading])
            ],
        }
        partial = folder / "evaluation.json.partial"
        partial.write_text(json.dumps(listing, indent=2, ensure_ascii=False), encoding="utf-8")
        os.replace(partial, folder / "evaluation.json")


def _save_reconstruction(triple: Reconstruction, folder: Path, number: int) -> dict[str, str]:
    parts = {
        "original": triple.original,
        "masked": triple.masked,
        "reconstructed": triple.reconstructed,
    }
    return {
        part: _save(picture_HWC, folder, f"reconstruction-{number}-{part}.png")
        for part, picture_HWC in parts.items()
    }


def _save_pair(pair: ShownPair, folder: Path, name: str) -> dict[str, str | float | bool]:
    return {
        "image": _save(pair.picture_HWC, folder, name),
        "caption": pair.caption,
        "score": pair.score,
        "matched": pair.matched,
    }


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """Pairs of a batch's rows with a score; `counts_P` is False where there is no such pair."""

    score_P: Tensor
    match_P: Tensor
    counts_P: Tensor
    text_row_P: Tensor
    image_row_P: Tensor


def _scored_pairs(output: EvaluationOutput) -> ScoredPairs | None:
    """By the matching head where there is one, else true pairs by their cosine."""
    for result in output.outputs.values():
        if (judged := result.judged) is not None:
            return ScoredPairs(
                match_probability(judged.logit_P2),
                judged.match_P,
                judged.weight_P > 0,
                judged.text_row_P,
                judged.image_row_P,
            )
    own = output.embeddings
    if own is None:
        return None
    row_B = torch.arange(len(own.image_BE), device=own.image_BE.device)
    return ScoredPairs(
        (own.image_BE * own.text_BE).sum(1),
        torch.ones_like(own.pair_valid_B),
        own.pair_valid_B,
        row_B,
        row_B,
    )


def reconstruct(batch: Batch, predicted_BCHW: Tensor, vision: VisionTower) -> list[Reconstruction]:
    """Original, masked and reconstructed pictures of the samples that have one.

    Args:
        predicted_BCHW: in the tower's normalised colours; used where the picture was hidden.
    """
    size = batch.pixels_BCHW.shape[-1]
    block = size // round(batch.block_hidden_BG.shape[1] ** 0.5)
    hidden_B1HW = hidden_pixels(batch.block_hidden_BG, block, size)[:, None]
    mean_C11 = predicted_BCHW.new_tensor(vision.image_mean).view(-1, 1, 1)
    std_C11 = predicted_BCHW.new_tensor(vision.image_std).view(-1, 1, 1)
    colour_BCHW = (predicted_BCHW * std_C11 + mean_C11).clamp(0, 1) * 255
    guess_BCHW = colour_BCHW.round().to(torch.uint8)
    masked_BCHW = batch.pixels_BCHW.masked_fill(hidden_B1HW, HIDDEN_GREY)
    whole_BCHW = torch.where(hidden_B1HW, guess_BCHW, batch.pixels_BCHW)
    return [
        Reconstruction(
            _picture(batch.pixels_BCHW[row]), _picture(masked_BCHW[row]), _picture(whole_BCHW[row])
        )
        for row in batch.image_present_B.nonzero().squeeze(1).tolist()
    ]


def _picture(pixels_CHW: Tensor) -> np.ndarray:
    return pixels_CHW.permute(1, 2, 0).cpu().numpy()


def _save(picture_HWC: np.ndarray, folder: Path, name: str) -> str:
    Image.fromarray(picture_HWC).save(folder / name)
    return name
