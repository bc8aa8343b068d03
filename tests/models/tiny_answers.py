"""A tiny answer decoder, questions and answers for it."""

import torch
from torch import Tensor

from vlpretrain.models.answer_decoder import (
    AnswerDecoder,
    AnswerTexts,
    SpecialIds,
    answer_texts,
)
from vlpretrain.padding import pad_ids

PAD, START, END = 0, 1, 2
SPECIAL = SpecialIds(START, END, PAD)
WIDTH, VOCAB, MAX_TOKENS = 16, 7, 6
# Of five answers three belong to question 0, none to question 2.
ROWS = [[1, 3, 2], [1, 4, 5, 6, 2], [1, 2], [1, 6, 6, 2], [1, 5, 3, 3, 4, 2]]
QUESTION = [0, 1, 0, 0, 3]


def make_decoder(seed: int = 0, vocab: int = VOCAB, max_tokens: int = MAX_TOKENS) -> AnswerDecoder:
    """In evaluation mode. Its weights are larger than at the start of a training, so that what it
    predicts differs from token to token."""
    torch.manual_seed(seed)
    decoder = AnswerDecoder(WIDTH, vocab, 2, 2, 0.0, max_tokens, SPECIAL).eval()
    for parameter in decoder.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.4)
    return decoder


def make_states(num_questions: int = 4, num_states: int = 5) -> tuple[Tensor, Tensor]:
    """States of questions, the first of which has no padding."""
    torch.manual_seed(1)
    length_Q1 = torch.tensor([[num_states], [2], [3], [1]])[:num_questions]
    return torch.randn(num_questions, num_states, WIDTH), torch.arange(num_states) < length_Q1


def make_answers(rows: list[list[int]] = ROWS, question: list[int] = QUESTION) -> AnswerTexts:
    text_SL, valid_SL = pad_ids(rows, PAD)
    return answer_texts(text_SL, valid_SL, torch.tensor(question, dtype=torch.int64))


def all_answers(vocab: int, num_words: int) -> list[list[int]]:
    """Every answer of up to `num_words` words, with start and end."""
    words = [token for token in range(vocab) if token not in (PAD, START, END)]
    found: list[list[int]] = [[]]
    for _ in range(num_words):
        found += [[*row, word] for row in found for word in words if [*row, word] not in found]
    return [[START, *row, END] for row in found]
