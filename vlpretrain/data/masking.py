"""What is hidden from the towers. Shapes: G mask blocks, T text tokens, M hidden word pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vlpretrain.pixels import num_hidden

# BERT's recipe (Devlin et al. 2019): of the hidden pieces 80 % are replaced by the mask token,
# 10 % by a random word piece, 10 % stay as they are.
MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1


class HiddenWords(NamedTuple):
    """A text with words hidden: the ids to read, and what stood where."""

    ids_T: np.ndarray  # int64
    column_M: np.ndarray  # int64
    target_M: np.ndarray  # int64


def hide_blocks(num_blocks: int, ratio: float, random: np.random.Generator) -> np.ndarray:
    """bool [G], True where the picture is hidden: exactly ceil(ratio * G) blocks."""
    hidden_G = np.zeros(num_blocks, dtype=bool)
    hidden_G[random.permutation(num_blocks)[: num_hidden(ratio, num_blocks)]] = True
    return hidden_G


def hide_words(
    ids: Sequence[int],
    word_ids: Sequence[int | None],
    ratio: float,
    mask_id: int,
    ordinary_ids: np.ndarray,
    random: np.random.Generator,
) -> HiddenWords:
    """Hides round(ratio * words) words, at least one; never a special token.

    Args:
        ids: token ids [T].
        word_ids: the word that each token is a piece of, None for a special token [T]; give every
            piece its own number to hide pieces rather than whole words.
        ordinary_ids: ids that a random replacement may take, the special tokens left out.
    """
    ids_T = np.asarray(ids, dtype=np.int64)
    word_T = np.array([-1 if word is None else word for word in word_ids], dtype=np.int64)
    words = np.unique(word_T[word_T >= 0])
    if not len(words):
        return HiddenWords(ids_T, np.empty(0, np.int64), np.empty(0, np.int64))
    chosen = random.permutation(words)[: max(1, round(ratio * len(words)))]
    column_M = np.flatnonzero(np.isin(word_T, chosen))
    target_M = ids_T[column_M]
    draw_M = random.random(len(column_M))
    replaced_M = np.where(draw_M < MASKED_SHARE, mask_id, target_M)
    random_M = (draw_M >= MASKED_SHARE) & (draw_M < MASKED_SHARE + RANDOM_SHARE)
    replaced_M[random_M] = random.choice(ordinary_ids, size=int(random_M.sum()))
    read_T = ids_T.copy()
    read_T[column_M] = replaced_M
    return HiddenWords(read_T, column_M, target_M)
