"""Visual question answering as a training task; true-or-false sentences are questions too.

Shapes beside the project's legend: I pictures, Q questions, P pictures of a question, S distinct
answers of all questions, A answers of the vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vlpretrain.models.answer_decoder import AnswerTexts, answer_loss
from vlpretrain.models.answerer import Answerer, QuestionStates
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.objectives.base import mean_count
from vlpretrain.types import GlobalEmbeddings, QuestionBatch, StepOutput

Loss = Literal["bce", "cross_entropy"]


class VqaTask(nn.Module):
    """Each picture is encoded once for all of its questions, each distinct text once for all of its
    pictures.

    Args:
        loss: of a classifier; a decoder is trained by the likelihood of the given answers, each
            weighted by the share of the humans who gave it (Li et al. 2021).
    """

    def __init__(self, model: VLModel, answerer: Answerer, loss: Loss = "bce") -> None:
        super().__init__()
        self.model = model
        self.answerer = answerer
        self.loss = loss
        freeze_unread(model)

    def needs_prepass(self, progress: float) -> bool:
        return False

    def forward(
        self,
        batch: QuestionBatch,
        others: GlobalEmbeddings | None = None,
        prepass: bool = False,
        evaluate: bool = False,
    ) -> StepOutput | QuestionStates:
        """One micro-batch; with `evaluate` the states that answers are read from."""
        states = self._read(batch)
        if evaluate:
            return states
        count = mean_count(batch, "questions")
        if self.answerer.classifier is None:
            return self._write(batch, states, count)
        logits_QA = self.answerer.logits(states).float()
        target_QA = soft_targets(batch, logits_QA.shape[1])
        loss = classification_loss(logits_QA, target_QA, self.loss) / count
        right = chosen_score(logits_QA.detach(), target_QA).sum() / count
        return StepOutput(loss, {"loss/vqa": loss.detach(), "vqa/accuracy": right})

    def _read(self, batch: QuestionBatch) -> QuestionStates:
        image = self.model.vision(batch.pixels_ICHW)
        text = self.model.text(batch.text_RT, batch.text_valid_RT)
        return self.answerer.states(
            self.model,
            image.token_BND,
            text.token_BTD,
            batch.text_valid_RT,
            batch.image_row_QP,
            batch.text_row_Q,
        )

    def _write(self, batch: QuestionBatch, states: QuestionStates, count: Tensor) -> StepOutput:
        answers = AnswerTexts(batch.answer_text_SL, batch.answer_question_S, batch.answer_place_M)
        logits_MV = self.answerer.logits(states, answers)
        loss = answer_loss(logits_MV, answers, batch.answer_share_S) / count
        return StepOutput(loss, {"loss/vqa": loss.detach()})


def freeze_unread(model: VLModel) -> None:
    """Takes the gradient off what no question reads: the optimiser then holds nothing for it."""
    unread: list[nn.Module | nn.Parameter | None] = [
        model.image_proj,
        model.text_proj,
        model.itm_head,
        model.vision.mask_token,
    ]
    for part in unread:
        if part is not None:
            part.requires_grad_(False)


def soft_targets(batch: QuestionBatch, num_answers: int) -> Tensor:
    """float32 [Q, A]: the accuracy that each answer of the vocabulary would have."""
    target_QA = batch.answer_score_S.new_zeros(len(batch.text_row_Q), num_answers)
    # Answers outside the vocabulary add nothing, in a place that is there.
    known_S = batch.answer_index_S >= 0
    place_S = batch.answer_index_S.clamp(min=0)
    score_S = batch.answer_score_S * known_S
    return target_QA.index_put((batch.answer_question_S, place_S), score_S, accumulate=True)


def classification_loss(logits_QA: Tensor, target_QA: Tensor, loss: Loss) -> Tensor:
    """The sum over questions, float32.

    bce: over answers, of each one's logistic loss with its score as the target (Teney et al. 2018);
    cross_entropy: to the scores as one distribution; a question none of whose answers is in the
    vocabulary counts nothing.
    """
    if loss == "bce":
        return F.binary_cross_entropy_with_logits(logits_QA, target_QA, reduction="sum")
    share_QA = target_QA / target_QA.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return F.cross_entropy(logits_QA, share_QA, reduction="sum")


def chosen_score(logits_QA: Tensor, target_QA: Tensor) -> Tensor:
    """[Q], the score of the likeliest answer of each question."""
    return target_QA.gather(1, logits_QA.argmax(dim=1, keepdim=True)).squeeze(1)
