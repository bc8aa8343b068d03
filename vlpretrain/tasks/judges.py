"""What heads find of one text that was read with its pictures: a match, or an answer.

Shapes: B pictures, T tokens, P pairs, A answers of the list, L tokens of an answer, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vlpretrain.errors import UserError
from vlpretrain.metrics.matching import match_probability
from vlpretrain.models.answer_decoder import answer_texts, frame_answer, log_likelihood
from vlpretrain.models.answer_search import cut_at_end
from vlpretrain.models.answerer import Answerer, QuestionStates
from vlpretrain.models.inputs import TextReader
from vlpretrain.models.vlmodel import VLModel


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a head finds of a text that was read with its pictures."""

    score: Tensor  # scalar with gradient: what the maps explain; a logit or a log-likelihood
    probability: float | None = None  # that the text matches, or of the answer
    answer: str | None = None


# Of the fused states [B, T, D] of one text with B pictures: all tokens, the first token first.
Judge = Callable[[Tensor], Verdict]


def match_judge(model: VLModel) -> Judge:
    """Judges whether the text belongs to the (first) picture, by the matching head."""

    def judge(fused_BTD: Tensor) -> Verdict:
        logit_P2 = model.itm_logits(fused_BTD[:1, 0])
        return Verdict(logit_P2[0, 1], probability=float(match_probability(logit_P2.detach())))

    return judge


def answer_judge(answerer: Answerer, reader: TextReader, answer: str | None = None) -> Judge:
    """Judges how likely an answer to the text, a question, is: with probabilities as
    `VLModel.answer` gives them.

    Args:
        reader: of the model; a decoder's answers are written with it.
        answer: the one to judge; None: the likeliest of a classifier, what a decoder writes.
    """

    def judge(fused_BTD: Tensor) -> Verdict:
        if len(fused_BTD) != answerer.spec.num_pictures:
            raise UserError(
                f"{len(fused_BTD)} pictures for a question",
                where="explain",
                fix=f"{answerer.spec.num_pictures}: as many as the model was fine-tuned with",
            )
        states = answerer.states_of_one(fused_BTD)
        if answerer.decoder is None:
            return _judge_class(answerer, states, answer)
        return _judge_text(answerer, reader, states, answer)

    return judge


def _judge_class(answerer: Answerer, states: QuestionStates, answer: str | None) -> Verdict:
    logits_A = answerer.logits(states)[0]
    names = answerer.spec.answers
    if answer is not None and answer not in names:
        raise UserError(
            f"{answer!r} is none of the {len(names)} answers that the model chooses among",
            where="explain",
            fix="one of answerer.spec.answers",
        )
    chosen = int(logits_A.argmax()) if answer is None else names.index(answer)
    probability = float(answerer.answer_scores(states)[0, chosen].detach().exp())
    return Verdict(logits_A[chosen], probability, names[chosen])


def _judge_text(
    answerer: Answerer, reader: TextReader, states: QuestionStates, answer: str | None
) -> Verdict:
    """The score is the logarithm of the probability that the decoder writes the answer."""
    special = answerer.spec.special
    if answer is None:
        written = answerer.write(states)
        ids = cut_at_end(written.text_QKL[0, 0].tolist(), special)
    else:
        text_1T, valid_1T = reader.read([answer])
        ids = text_1T[valid_1T].tolist()
    device = states.state_QTD.device
    text_1L = torch.tensor([frame_answer(ids, special)], device=device)
    first_1 = torch.zeros(1, dtype=torch.int64, device=device)
    texts = answer_texts(text_1L, torch.ones_like(text_1L, dtype=torch.bool), first_1)
    score = log_likelihood(answerer.logits(states, texts), texts)[0]
    name = reader.write(ids) if answer is None else answer
    return Verdict(score, float(score.detach().exp()), name)
