"""The batch that every contestant of step.py gets: random pictures, captions of real lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from vlpretrain.types import Batch

PAD, CLS, SEP, MASK = 0, 101, 102, 103
# COCO's captions in word pieces, with [CLS] and [SEP]: mean and deviation, shortest and longest.
LENGTH_MEAN, LENGTH_DEVIATION, LENGTH_RANGE = 13.0, 3.0, (8, 25)
HIDDEN_WORDS_RATIO = 0.15


@dataclass(frozen=True)
class Sizes:
    """What all contestants of a comparison share."""

    image_size: int
    batch: int
    image_depth: int
    mask_ratio: float = 0.6
    patch: int = 16
    block: int = 32
    width: int = 384
    heads: int = 6
    depth: int = 6  # layers of the text tower, and of the fusion
    vocab_size: int = 30522
    max_tokens: int = 30
    embed_dim: int = 256
    dropout: float = 0.0


def make_batch(sizes: Sizes, seed: int = 0) -> Batch:
    """One micro-batch, the same for a seed; texts padded to the longest of it."""
    random = torch.Generator().manual_seed(seed)
    length_B = _lengths(sizes.batch, random)
    text_BT = torch.randint(
        1000, sizes.vocab_size, (sizes.batch, int(length_B.max())), generator=random
    )
    column_T = torch.arange(text_BT.shape[1])
    text_valid_BT = column_T < length_B[:, None]
    text_BT[:, 0] = CLS
    text_BT[torch.arange(sizes.batch), length_B - 1] = SEP
    text_BT[~text_valid_BT] = PAD
    hidden_M = _hidden_words(length_B, text_BT.shape[1], random)
    masked_text_BT = text_BT.clone()
    masked_text_BT.view(-1)[hidden_M] = MASK
    block_hidden_BG = _hidden_blocks(sizes, random)
    counts = [sizes.batch] * 3 + [int(block_hidden_BG.sum()), len(hidden_M)]
    shape = (sizes.batch, 3, sizes.image_size, sizes.image_size)
    everywhere_B = torch.ones(sizes.batch, dtype=torch.bool)
    return Batch(
        pixels_BCHW=torch.randint(0, 256, shape, dtype=torch.uint8, generator=random),
        text_BT=text_BT,
        text_valid_BT=text_valid_BT,
        masked_text_BT=masked_text_BT,
        hidden_word_index_M=hidden_M,
        hidden_word_target_M=text_BT.view(-1)[hidden_M],
        block_hidden_BG=block_hidden_BG,
        image_present_B=everywhere_B,
        text_present_B=everywhere_B,
        image_id_B=torch.arange(sizes.batch),
        text_id_B=torch.arange(sizes.batch),
        counts=torch.tensor(counts, dtype=torch.float32),
        mean_counts=torch.tensor(counts, dtype=torch.float32),
        keys=tuple(f"bench/{row}" for row in range(sizes.batch)),
    )


def _lengths(batch: int, random: torch.Generator) -> torch.Tensor:
    length_B = LENGTH_MEAN + LENGTH_DEVIATION * torch.randn(batch, generator=random)
    return length_B.round().clamp(*LENGTH_RANGE).long()


def _hidden_words(length_B: torch.Tensor, width: int, random: torch.Generator) -> torch.Tensor:
    """Flat positions of 15 % of each text's words, one at least, never [CLS] or [SEP]."""
    found = []
    for row, length in enumerate(length_B.tolist()):
        count = max(1, round(HIDDEN_WORDS_RATIO * (length - 2)))
        found.append(
            row * width + 1 + torch.randperm(length - 2, generator=random)[:count].sort()[0]
        )
    return torch.cat(found)


def _hidden_blocks(sizes: Sizes, random: torch.Generator) -> torch.Tensor:
    blocks = (sizes.image_size // sizes.block) ** 2
    order_BG = torch.rand(sizes.batch, blocks, generator=random).argsort(dim=1)
    return order_BG < math.ceil(sizes.mask_ratio * blocks)
