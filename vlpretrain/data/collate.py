"""Prepared rows to one Batch.

Shapes: B rows, C channels (RGB), H height, W width, T text tokens, G mask blocks, M hidden word
pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlpretrain.data.keyed import generator, stable_hash
from vlpretrain.data.masking import HiddenWords, hide_words
from vlpretrain.data.tokenise import Encoded, Tokeniser
from vlpretrain.data.transforms import Row, SampleSettings, blank_row, prepare_row
from vlpretrain.errors import UserError
from vlpretrain.types import COUNTS, Batch, Sample

SENTENCE_END = ".,;:!?…"


@dataclass(frozen=True)
class PairRecipe:
    """Pictures and captions to a Batch (loader.Recipe)."""

    tokeniser: Tokeniser
    settings: SampleSettings

    def __post_init__(self) -> None:
        check_masking(self.tokeniser, self.settings)

    @property
    def seed(self) -> int:
        return self.settings.seed

    def row(self, sample: Sample, epoch: int, source: int) -> Row:
        return prepare_row(sample, epoch, source, self.settings)

    def blank(self) -> Row:
        return blank_row(self.settings)

    def collate(self, rows: Sequence[Row]) -> Batch:
        return collate(rows, self.tokeniser, self.settings)

    def still(self) -> PairRecipe:
        still = replace(self.settings, crop="centre", flip=False, caption="first", seed=0)
        return replace(self, settings=still)


class PaddedTexts(NamedTuple):
    """The texts of a micro-batch, padded to the longest."""

    text_BT: Tensor  # int64
    valid_BT: Tensor  # bool, True where a token stands
    masked_BT: Tensor  # int64, the hidden words replaced
    hidden_index_M: Tensor  # int64, row * T + column
    hidden_target_M: Tensor  # int64


def collate(rows: Sequence[Row], tokeniser: Tokeniser, settings: SampleSettings) -> Batch:
    """Stacks rows; an absent picture is black, an absent text holds the special tokens alone."""
    present = np.array([(row.pixels_CHW is not None, row.caption is not None) for row in rows])
    texts = _pad_texts(rows, tokeniser, settings)
    block_hidden_BG = torch.from_numpy(np.stack([row.block_hidden_G for row in rows]))
    counts = _count(present, block_hidden_BG, len(texts.hidden_index_M))
    return Batch(
        pixels_BCHW=_stack_pixels(rows, settings.image_size),
        text_BT=texts.text_BT,
        text_valid_BT=texts.valid_BT,
        masked_text_BT=texts.masked_BT,
        hidden_word_index_M=texts.hidden_index_M,
        hidden_word_target_M=texts.hidden_target_M,
        block_hidden_BG=block_hidden_BG,
        image_present_B=torch.from_numpy(present[:, 0].copy()),
        text_present_B=torch.from_numpy(present[:, 1].copy()),
        image_id_B=torch.tensor([row.image_id for row in rows]),
        text_id_B=torch.tensor([text_id(row.caption) for row in rows]),
        counts=counts,
        mean_counts=counts.clone(),
        keys=tuple(row.label for row in rows),
    )


def text_id(caption: str | None) -> int:
    """Equal for captions that differ in case, spacing or the stop at the end only; -1: no text."""
    if caption is None:
        return -1
    return stable_hash(" ".join(caption.lower().split()).rstrip(SENTENCE_END + " "))


def check_masking(tokeniser: Tokeniser, settings: SampleSettings) -> None:
    """Raises UserError where words are to be hidden and the tokenizer has no mask token."""
    if settings.word_ratio and tokeniser.mask_id is None:
        raise UserError(
            "words can't be hidden: this tokenizer has no mask token",
            where="data.tokenizer",
            fix="set objectives.mlm.weight to 0, or take a BERT-like tokenizer",
        )


def _stack_pixels(rows: Sequence[Row], size: int) -> Tensor:
    pixels_BCHW = torch.zeros(len(rows), 3, size, size, dtype=torch.uint8)
    for pixels_CHW, row in zip(pixels_BCHW, rows, strict=True):
        if row.pixels_CHW is not None:
            pixels_CHW.copy_(row.pixels_CHW)
    return pixels_BCHW


def _pad_texts(rows: Sequence[Row], tokeniser: Tokeniser, settings: SampleSettings) -> PaddedTexts:
    encoded = tokeniser.encode([row.caption or "" for row in rows], settings.max_tokens)
    longest = max(len(text.ids) for text in encoded)
    text_BT = np.full((len(rows), longest), tokeniser.pad_id, dtype=np.int64)
    valid_BT = np.zeros((len(rows), longest), dtype=bool)
    masked_BT = text_BT.copy()
    index, target = [], []
    for place, (row, text) in enumerate(zip(rows, encoded, strict=True)):
        hidden = _hide(row, text, tokeniser, settings)
        text_BT[place, : len(text.ids)] = text.ids
        valid_BT[place, : len(text.ids)] = True
        masked_BT[place, : len(text.ids)] = hidden.ids_T
        index.append(place * longest + hidden.column_M)
        target.append(hidden.target_M)
    parts = (text_BT, valid_BT, masked_BT, np.concatenate(index), np.concatenate(target))
    return PaddedTexts(*(torch.from_numpy(part) for part in parts))


def _hide(row: Row, text: Encoded, tokeniser: Tokeniser, settings: SampleSettings) -> HiddenWords:
    nothing = np.empty(0, np.int64)
    if row.caption is None or tokeniser.mask_id is None or not settings.word_ratio:
        return HiddenWords(np.asarray(text.ids, np.int64), nothing, nothing)
    words = text.word_ids
    if not settings.whole_words:
        words = [None if word is None else piece for piece, word in enumerate(words)]
    return hide_words(
        text.ids,
        words,
        settings.word_ratio,
        tokeniser.mask_id,
        tokeniser.ordinary_ids,
        generator(settings.seed, row.epoch, row.random_key, "words"),
    )


def _count(present: np.ndarray, block_hidden_BG: Tensor, hidden_words: int) -> Tensor:
    image_present_B = torch.from_numpy(present[:, 0])
    count = {
        "images": int(present[:, 0].sum()),
        "texts": int(present[:, 1].sum()),
        "pairs": int(present.all(1).sum()),
        "hidden_blocks": int(block_hidden_BG[image_present_B].sum()),
        "hidden_words": hidden_words,
    }
    return torch.tensor([count.get(name, 0) for name in COUNTS], dtype=torch.float32)
