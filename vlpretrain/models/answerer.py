"""What a model fine-tuned for visual question answering carries beside towers and fusion.

Shapes: I pictures, R texts, Q questions, P pictures a question, T text positions, A answers of the
list, L tokens of an answer, M predicted tokens, V vocabulary, N image tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlpretrain.errors import UserError
from vlpretrain.models.answer_classifier import AnswerClassifier
from vlpretrain.models.answer_decoder import AnswerDecoder, AnswerTexts, SpecialIds
from vlpretrain.models.answer_search import Ranking, Written, generate, rank_answers
from vlpretrain.models.fusion import FusionPairs
from vlpretrain.models.layers import INIT_DEVIATION
from vlpretrain.models.layout import every_token, first_is_valid, first_tokens
from vlpretrain.padding import pad_ids

if TYPE_CHECKING:
    from vlpretrain.models.vlmodel import VLModel

# Candidates that the whole likelihood is computed for; ALBEF's number.
K_FIRST = 128
NUM_BEAMS = 3
_FEWEST_TOKENS = 3


@dataclass(frozen=True)
class AnswererSpec:
    """What an answerer is made of, in plain values; kept in answerer.json.

    From `depth` on the fields are a decoder's; a classifier reads none of them.
    """

    kind: Literal["classify", "decode"] = "classify"
    num_pictures: int = 1  # that one question is about
    answers: tuple[str, ...] = ()  # a classifier's classes; a decoder's list to rank, or none
    exclusive: bool = False  # a classifier's: one answer is right, so probabilities add up to 1
    dropout: float = 0.1
    depth: int = 2
    heads: int = 6
    max_answer_tokens: int = 10  # start and end included
    start_id: int = 0
    end_id: int = 0
    pad_id: int = 0
    # The ids of each of `answers`, start and end included.
    answer_tokens: tuple[tuple[int, ...], ...] = ()

    @property
    def special(self) -> SpecialIds:
        return SpecialIds(self.start_id, self.end_id, self.pad_id)


@dataclass(frozen=True, slots=True)
class QuestionStates:
    """What answers are read from.

    A classifier's: the fused first token of each picture, T = P. A decoder's: all fused tokens,
    those of a question's second picture behind those of its first.
    """

    state_QTD: Tensor
    valid_QT: Tensor


class Answerer(nn.Module):
    """Answers questions from fused states, by class or word by word.

    Attributes:
        classifier, decoder: the one that `spec.kind` names; the other is None.
    """

    list_text_AL: Tensor
    list_valid_AL: Tensor

    def __init__(self, spec: AnswererSpec, width: int, vocab_size: int) -> None:
        """`width` is the fusion's, `vocab_size` the text tower's.

        Raises:
            UserError: parts that do not fit together.
        """
        super().__init__()
        _check(spec, width)
        self.spec = spec
        self.classifier: AnswerClassifier | None = None
        self.decoder: AnswerDecoder | None = None
        self.picture_embed: nn.Embedding | None = None
        if spec.kind == "classify":
            self.classifier = AnswerClassifier(
                width, spec.num_pictures, len(spec.answers), spec.dropout
            )
            return
        self.decoder = AnswerDecoder(
            width,
            vocab_size,
            spec.depth,
            spec.heads,
            spec.dropout,
            spec.max_answer_tokens,
            spec.special,
        )
        if spec.num_pictures > 1:
            self.picture_embed = nn.Embedding(spec.num_pictures, width)
            nn.init.trunc_normal_(self.picture_embed.weight, std=INIT_DEVIATION)
        # The description lists them: no part of the weights.
        text_AL, valid_AL = pad_ids(spec.answer_tokens, spec.pad_id)
        self.register_buffer("list_text_AL", text_AL, persistent=False)
        self.register_buffer("list_valid_AL", valid_AL, persistent=False)

    def states(
        self,
        model: VLModel,
        image_IND: Tensor,
        text_RTD: Tensor,
        text_valid_RT: Tensor,
        image_row_QP: Tensor,
        text_row_Q: Tensor | None = None,
    ) -> QuestionStates:
        """Every question read with each of its pictures, in one call of the fusion.

        Args:
            image_IND: image tokens of the distinct pictures.
            text_RTD: token states of the distinct texts.
            image_row_QP: each question's pictures, in their order.
            text_row_Q: each question's text; None: question q is text q.
        """
        num_questions, num_pictures = image_row_QP.shape
        if text_row_Q is None:
            text_row_Q = torch.arange(num_questions, device=image_row_QP.device)
        pair_text_S = text_row_Q.repeat_interleave(num_pictures)  # S: Q * P pairs
        valid_ST = first_is_valid(text_valid_RT)[pair_text_S]
        tokens = first_tokens(valid_ST) if self.decoder is None else every_token(valid_ST)
        pairs = FusionPairs(pair_text_S, image_row_QP.flatten(), tokens.places(valid_ST.device))
        fused_KD = model.fusion(image_IND, text_RTD, text_valid_RT, pairs)
        if self.decoder is None:
            state_QPD = fused_KD.unflatten(0, (num_questions, num_pictures))
            return QuestionStates(state_QPD, torch.ones_like(image_row_QP, dtype=torch.bool))
        state_QPTD = tokens.pad(fused_KD).unflatten(0, (num_questions, num_pictures))
        return QuestionStates(
            self._mark_pictures(state_QPTD).flatten(1, 2), valid_ST.view(num_questions, -1)
        )

    def states_of_one(self, fused_PTD: Tensor) -> QuestionStates:
        """One question's, from all its fused tokens, read with each picture and without padding."""
        if self.decoder is None:
            state_1TD = fused_PTD[:, 0].unsqueeze(0)
        else:
            state_1TD = self._mark_pictures(fused_PTD.unsqueeze(0)).flatten(1, 2)
        valid_1T = torch.ones(state_1TD.shape[:2], dtype=torch.bool, device=state_1TD.device)
        return QuestionStates(state_1TD, valid_1T)

    def logits(self, states: QuestionStates, answers: AnswerTexts | None = None) -> Tensor:
        """A classifier's logits [Q, A]; a decoder's [M, V] of the given answers' tokens."""
        if self.classifier is not None:
            return self.classifier(states.state_QTD)
        assert answers is not None
        return self._decoder(states.state_QTD, states.valid_QT, answers)

    def answer_scores(self, states: QuestionStates, k_first: int = K_FIRST) -> Tensor:
        """The logarithm of the probability [Q, A] of each of `spec.answers`, float32.

        A classifier judges its answers one by one (logistic) or, `spec.exclusive`, against each
        other (softmax). A decoder's answers have their likelihood, and those that are not among the
        `k_first` with the likeliest first token -inf.
        """
        if self.classifier is not None:
            logits_QA = self.classifier(states.state_QTD).float()
            return logits_QA.log_softmax(dim=1) if self.spec.exclusive else F.logsigmoid(logits_QA)
        ranking = self.rank(states, self.list_text_AL, self.list_valid_AL, k_first)
        score_QA = torch.full(
            (len(states.state_QTD), len(self.list_text_AL)),
            -torch.inf,
            device=ranking.index_QK.device,
        )
        return score_QA.scatter(1, ranking.index_QK, ranking.log_likelihood_QK)

    def rank(
        self, states: QuestionStates, text_AL: Tensor, valid_AL: Tensor, k_first: int = K_FIRST
    ) -> Ranking:
        """Any list of answers, ranked by a decoder; see `rank_answers`."""
        return rank_answers(
            self._decoder, states.state_QTD, states.valid_QT, text_AL, valid_AL, k_first
        )

    def write(
        self, states: QuestionStates, num_beams: int = NUM_BEAMS, max_tokens: int | None = None
    ) -> Written:
        """A decoder's own answers; see `generate`."""
        return generate(self._decoder, states.state_QTD, states.valid_QT, num_beams, max_tokens)

    @property
    def _decoder(self) -> AnswerDecoder:
        if self.decoder is None:
            raise UserError(
                "this model chooses among its answers and writes none",
                where="answerer.kind classify",
                fix="a model fine-tuned with open answers (kind decode)",
            )
        return self.decoder

    def _mark_pictures(self, state_QPTD: Tensor) -> Tensor:
        """Attention knows no order: a state says by what is added which picture it is of."""
        if self.picture_embed is None:
            return state_QPTD
        picture_P = torch.arange(self.spec.num_pictures, device=state_QPTD.device)
        return state_QPTD + self.picture_embed(picture_P)[:, None]


def _check(spec: AnswererSpec, width: int) -> None:
    if spec.num_pictures < 1:
        raise UserError(
            f"{spec.num_pictures} pictures a question", where="answerer.num_pictures", fix="1 or 2"
        )
    if spec.kind == "classify":
        if not spec.answers:
            raise UserError(
                "no answer to choose among", where="answerer.answers", fix="at least one answer"
            )
        return
    if spec.kind != "decode":
        raise UserError(
            f"no answerer is called {spec.kind!r}",
            where="answerer.kind",
            fix="classify or decode",
        )
    if spec.depth < 1 or width % spec.heads:
        raise UserError(
            f"{spec.depth} layers with {spec.heads} heads for the fusion's width {width}",
            where="answerer.depth, answerer.heads",
            fix="at least 1 layer, and a number of heads that divides the width",
        )
    _check_tokens(spec)


def _check_tokens(spec: AnswererSpec) -> None:
    if spec.max_answer_tokens < _FEWEST_TOKENS:
        raise UserError(
            f"answers of {spec.max_answer_tokens} tokens",
            where="answerer.max_answer_tokens",
            fix=f"at least {_FEWEST_TOKENS}: a start, a word and an end",
        )
    if len(spec.answers) != len(spec.answer_tokens):
        raise UserError(
            f"{len(spec.answers)} answers, tokens of {len(spec.answer_tokens)}",
            where="answerer.answer_tokens",
            fix="the token ids of every answer",
        )
    for answer, ids in zip(spec.answers, spec.answer_tokens, strict=True):
        if len(ids) > spec.max_answer_tokens:
            raise UserError(
                f"{answer!r} has {len(ids)} tokens, the decoder takes {spec.max_answer_tokens}",
                where="answerer.max_answer_tokens",
                fix=f"max_answer_tokens: {len(ids)}, or a list without it",
            )
