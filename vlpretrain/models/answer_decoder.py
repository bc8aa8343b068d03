"""Answers word by word: a causal transformer over the fused states of a question (Li et al. 2021).

The keys and values of a question's states are projected once a question and layer, whatever number
of answers reads them. Linear layers, the vocabulary's above all, see real tokens only.

Shapes: Q questions, T states of a question, S answers, L tokens of the longest answer with its
start and end, I = L - 1 positions that tokens are predicted from, M real tokens that are predicted,
R flat rows, O tokens known before, V vocabulary, D width, E = 2 * D, G groups of cross-attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlpretrain.models.layers import INIT_DEVIATION, Attention, FeedForward, init_weights
from vlpretrain.models.layout import Slots, packs_rows, stack_rows


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Token ids that begin and end an answer, and that fill the space behind the end."""

    start: int
    end: int
    pad: int


@dataclass(frozen=True, slots=True)
class AnswerTexts:
    """Tokens of answers and the questions they belong to; `answer_texts` makes them."""

    text_SL: Tensor  # int64: the start token, the answer's, the end token, padding
    question_S: Tensor  # int64, each answer's row among the questions
    # int64, flat positions s * (L - 1) + i: token i of answer s is real, and a real one follows.
    place_M: Tensor

    @property
    def input_M(self) -> Tensor:
        """The tokens that are read."""
        return self.text_SL[:, :-1].flatten()[self.place_M]

    @property
    def target_M(self) -> Tensor:
        """The tokens that are predicted."""
        return self.text_SL[:, 1:].flatten()[self.place_M]


def answer_texts(text_SL: Tensor, valid_SL: Tensor, question_S: Tensor) -> AnswerTexts:
    """Answers, padded behind their end. On a GPU the host waits for the number of tokens: a step's
    answers are made on the host.

    Args:
        valid_SL: True where a real token stands, start and end included.
    """
    return AnswerTexts(text_SL, question_S, predicted_places(valid_SL))


def predicted_places(valid_SL: Tensor) -> Tensor:
    """`AnswerTexts.place_M` of a mask."""
    return valid_SL[:, 1:].flatten().nonzero().squeeze(1)


def frame_answer(ids: Sequence[int], special: SpecialIds) -> list[int]:
    """Token ids between the start and the end token; those that are there already stay."""
    head = [] if list(ids[:1]) == [special.start] else [special.start]
    tail = [] if list(ids[-1:]) == [special.end] else [special.end]
    return [*head, *ids, *tail]


def log_likelihood(logits_MV: Tensor, answers: AnswerTexts) -> Tensor:
    """The logarithm of each answer's probability, [S], float32: the sum over its tokens, the end
    token included and the start token given. With gradient."""
    token_M1 = -F.cross_entropy(logits_MV.float(), answers.target_M, reduction="none")[:, None]
    num_answers, length = answers.text_SL.shape
    return Slots(answers.place_M, num_answers, length - 1).pad(token_M1).sum(dim=(1, 2))


def answer_loss(logits_MV: Tensor, answers: AnswerTexts, weight_S: Tensor) -> Tensor:
    """The sum over answers of weight times the negative log-likelihood, float32 (Li et al. 2021).

    An answer's loss is the sum over its tokens, not their mean, so that weights which are shares of
    the humans who gave the answer make it the cross-entropy between their distribution and the
    decoder's. To be divided by the number of questions.
    """
    return -(weight_S.float() * log_likelihood(logits_MV, answers)).sum()


@dataclass(frozen=True, slots=True)
class Memory:
    """What answers read of their questions."""

    key_value: tuple[Tensor, ...]  # of each layer, [Q, T, E]
    valid_QT: Tensor


@dataclass(frozen=True, slots=True)
class AnswerLayout:
    """Where the rows of answers' tokens stand."""

    words: Slots  # by answer
    states: Slots  # by group of cross-attention
    question_row_G: Tensor | None  # the question of each group; None: group g reads question g
    seen_IN: Tensor | None  # True where a position sees a token, those before first; None: all


def lay_out_answers(answers: AnswerTexts, num_questions: int) -> AnswerLayout:
    """On a CPU all answers to a question form one group, whose keys need no copy. On a GPU, where
    counting them would make the host wait, every answer is a group with a copy of its question's
    keys: a question is short."""
    num_answers, length = answers.text_SL.shape
    words = Slots(answers.place_M, num_answers, length - 1)
    seen_IN = causal(length - 1, 0, answers.text_SL.device)
    if not packs_rows(answers.text_SL.device):
        return AnswerLayout(words, words, answers.question_S, seen_IN)
    question_M = answers.question_S[answers.place_M // (length - 1)]
    return AnswerLayout(words, stack_rows(question_M, num_questions), None, seen_IN)


def one_token_layout(num_questions: int, num_answers: int) -> AnswerLayout:
    """One new token for each of `num_answers` answers to each question, question by question."""
    return AnswerLayout(
        words=Slots(None, num_questions * num_answers, 1),
        states=Slots(None, num_questions, num_answers),
        question_row_G=None,
        seen_IN=None,
    )


def causal(num_positions: int, num_before: int, device: torch.device) -> Tensor:
    """True where a position sees a token: itself, earlier ones, and all `num_before` known before,
    which stand first."""
    ones_IN = torch.ones(num_positions, num_before + num_positions, dtype=torch.bool, device=device)
    return ones_IN.tril(num_before)


class AnswerDecoder(nn.Module):
    """Predicts each token of an answer from those before it and the question's states.

    It has word embeddings and an output layer of its own, untied: ZeRO-3 shares no parameter
    between modules.
    """

    def __init__(
        self,
        width: int,
        vocab_size: int,
        depth: int,
        heads: int,
        dropout: float,
        max_tokens: int,
        special: SpecialIds,
    ) -> None:
        """`max_tokens` is an answer's longest, start and end included."""
        super().__init__()
        self.special, self.max_tokens, self.vocab_size = special, max_tokens, vocab_size
        self.word_embed = nn.Embedding(vocab_size, width)
        self.position_embed = nn.Embedding(max_tokens - 1, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(AnswerLayer(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size)
        self.apply(init_weights)
        for embed in (self.word_embed, self.position_embed):
            nn.init.trunc_normal_(embed.weight, std=INIT_DEVIATION)

    def forward(self, state_QTD: Tensor, state_valid_QT: Tensor, answers: AnswerTexts) -> Tensor:
        """Logits [M, V] of `answers.target_M`.

        They depend on the answer's earlier tokens and its question alone.

        Args:
            state_valid_QT: True where a state is real; each question has one.
        """
        length = answers.text_SL.shape[1]
        if length > self.max_tokens:
            raise ValueError(f"an answer of {length} tokens; the decoder takes {self.max_tokens}")
        memory = self.remember(state_QTD, state_valid_QT)
        layout = lay_out_answers(answers, len(state_QTD))
        column_M = answers.place_M % (length - 1)
        row_MD, _ = self.read(answers.input_M, column_M, layout, memory)
        return self.head(row_MD)

    def remember(self, state_QTD: Tensor, state_valid_QT: Tensor) -> Memory:
        """Keys and values of the questions, to be used for all their answers and tokens."""
        layers: Any = self.layers
        return Memory(tuple(layer.states.key_value(state_QTD) for layer in layers), state_valid_QT)

    def read(
        self,
        text_R: Tensor,
        column_R: Tensor,
        layout: AnswerLayout,
        memory: Memory,
        before: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """States [R, D] for `head`, and each layer's keys and values [S, O + I, E] so far.

        Args:
            column_R: each token's place in its answer, the start token's being 0.
            before: each layer's keys and values [S, O, E] of the tokens before these.
        """
        row_RD = self.dropout(self.word_embed(text_R) + self.position_embed(column_R))
        valid_GT = _pick(memory.valid_QT, layout.question_row_G)
        so_far = []
        for index, layer in enumerate(self.layers):
            key_value_GTE = _pick(memory.key_value[index], layout.question_row_G)
            known = None if before is None else before[index]
            row_RD, known = layer(row_RD, layout, key_value_GTE, valid_GT, known)
            so_far.append(known)
        return self.norm(row_RD), so_far


class AnswerLayer(nn.Module):
    """Pre-norm causal self-attention, cross-attention to the question's states, feed-forward."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.word_norm = nn.LayerNorm(width)
        self.words = Attention(width, heads)
        self.state_norm = nn.LayerNorm(width)
        self.states = Attention(width, heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        row_RD: Tensor,
        layout: AnswerLayout,
        state_key_value_GTE: Tensor,
        state_valid_GT: Tensor,
        before_SOE: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The rows, and the keys and values [S, O + I, E] of the answers' tokens."""
        normed_RD = self.word_norm(row_RD)
        key_value_SNE = layout.words.pad(self.words.key_value(normed_RD))
        if before_SOE is not None:
            key_value_SNE = torch.cat([before_SOE, key_value_SNE], dim=1)
        read_RD = self.words(normed_RD, layout.words, key_value_SNE, seen_QN=layout.seen_IN)
        row_RD = row_RD + self.dropout(read_RD)
        read_RD = self.states(
            self.state_norm(row_RD), layout.states, state_key_value_GTE, state_valid_GT
        )
        row_RD = row_RD + self.dropout(read_RD)
        return row_RD + self.dropout(self.feed(self.feed_norm(row_RD))), key_value_SNE


def _pick(rows: Tensor, index: Tensor | None) -> Tensor:
    return rows if index is None else rows.index_select(0, index)
