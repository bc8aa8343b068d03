"""Masked-language modelling, the words read with the picture (Li et al. 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlpretrain.objectives.base import (
    FusionRequest,
    Need,
    Objective,
    ObjectiveOutput,
    mean_count,
)
from vlpretrain.objectives.features import Features
from vlpretrain.types import Batch


class WordHead(nn.Module):
    """Fused states to logits over the vocabulary, as BERT's; the decoder is not tied (ZeRO-3)."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.decoder = nn.Linear(width, vocab_size)

    def forward(self, state_MD: Tensor) -> Tensor:
        return self.decoder(self.norm(F.gelu(self.dense(state_MD))))


class MaskedLanguageModelling(Objective):
    """Predicts the hidden words of text i, read with picture i, at hidden positions only.

    A text without a picture serves too: it is read with the blank that stands in for one.
    """

    needs = frozenset({Need.IMAGE, Need.MASKED_TEXT})
    unit = "hidden_words"

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.head = WordHead(width, vocab_size)

    def request(self, features: Features, batch: Batch) -> FusionRequest:
        assert features.masked_text is not None
        row_B = torch.arange(len(batch), device=batch.text_BT.device)
        num_tokens = batch.text_BT.shape[1]
        return FusionRequest(
            text_RTD=features.masked_text.token_BTD,
            text_valid_RT=batch.text_valid_BT,
            text_row_P=row_B,
            image_row_P=row_B,
            read_pair_K=batch.hidden_word_index_M // num_tokens,
            read_token_K=batch.hidden_word_index_M % num_tokens,
        )

    def forward(
        self,
        features: Features,
        batch: Batch,
        request: FusionRequest | None,
        fused_KD: Tensor | None,
    ) -> ObjectiveOutput:
        assert fused_KD is not None
        logits_MV = self.head(fused_KD).float()
        target_M = batch.hidden_word_target_M
        count = mean_count(batch, self.unit)
        loss = F.cross_entropy(logits_MV, target_M, reduction="sum") / count
        right = (logits_MV.detach().argmax(-1) == target_M).sum() / count
        return ObjectiveOutput(loss, {"loss/mlm": loss.detach(), "mlm/accuracy": right})
