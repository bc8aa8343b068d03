"""Re-ranking as ALBEF's evaluation does it, on the weights of one of our models.

Shapes: P pairs, N image tokens, T text positions, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vlpretrain.models.attention import attend, merge_heads, split_heads
from vlpretrain.models.fusion_cross import CrossLayer
from vlpretrain.models.layers import Attention
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.retrieval_encode import TextTable


class PairByPair:
    """The whole fusion for each pair: picture and caption copied, projections of the picture
    included, captions padded, every position through every layer.

    Args:
        max_tokens: that captions are padded to; 0: to the longest of the call.
    """

    def __init__(self, model: VLModel, max_tokens: int) -> None:
        self.model, self.max_tokens = model, max_tokens

    def scores(
        self, token_IND: Tensor, texts: TextTable, image_P: Tensor, text_P: Tensor
    ) -> Tensor:
        """Log-odds of a match, float32 [P]."""
        state_PTD, valid_PT = texts.padded(text_P)
        missing = max(0, self.max_tokens - valid_PT.shape[1])
        state_PTD = F.pad(state_PTD, (0, 0, 0, missing))
        valid_PT = F.pad(valid_PT, (0, missing))
        fusion = self.model.fusion
        image_PND = fusion.image_norm(fusion.image_in(token_IND[image_P]))
        state_PTD = fusion.text_in(state_PTD)
        for layer in fusion.body.layers:
            state_PTD = _layer(layer, state_PTD, valid_PT, image_PND)
        logit_P2 = self.model.itm_logits(fusion.norm(state_PTD)[:, 0]).float()
        return logit_P2[:, 1] - logit_P2[:, 0]


def _layer(layer: CrossLayer, state_PTD: Tensor, valid_PT: Tensor, image_PND: Tensor) -> Tensor:
    normed_PTD = layer.word_norm(state_PTD)
    state_PTD = state_PTD + _read(layer.words, normed_PTD, normed_PTD, valid_PT)
    asking_PTD = layer.picture_norm(state_PTD)
    state_PTD = state_PTD + _read(layer.picture, asking_PTD, image_PND, None)
    return state_PTD + layer.feed(layer.feed_norm(state_PTD))


def _read(
    attention: Attention, asking_PTD: Tensor, seen_PND: Tensor, valid_PN: Tensor | None
) -> Tensor:
    key_PND, value_PND = attention.key_value(seen_PND).chunk(2, dim=-1)
    parts = (attention.query(asking_PTD), key_PND, value_PND)
    query, key, value = (split_heads(part, attention.heads) for part in parts)
    return attention.out(merge_heads(attend(query, key, value, valid_PN)))
