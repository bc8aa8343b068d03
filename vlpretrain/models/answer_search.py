"""Finding the answer: ranking a list by likelihood, or writing one by beam search.

Nothing here has a gradient. Shapes: as in answer_decoder.py, and A answers of a list, K candidates
or beams of a question, C candidates of one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlpretrain import distributed
from vlpretrain.models.answer_decoder import (
    AnswerDecoder,
    AnswerLayout,
    AnswerTexts,
    Memory,
    SpecialIds,
    causal,
    log_likelihood,
    one_token_layout,
    predicted_places,
)
from vlpretrain.models.layout import Slots

# Candidates of each question that are read in one call: bounds the memory of their logits.
_CANDIDATES_A_CALL = 32


@dataclass(frozen=True, slots=True)
class Ranking:
    """The candidates of each question, the likeliest first."""

    index_QK: Tensor  # int64, rows of the list
    log_likelihood_QK: Tensor  # float32


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, the likeliest first; each answer ends, and is padded behind its end."""

    text_QKL: Tensor  # int64, without the start token
    log_likelihood_QK: Tensor  # float32


@torch.no_grad()
def rank_answers(
    decoder: AnswerDecoder,
    state_QTD: Tensor,
    state_valid_QT: Tensor,
    list_text_AL: Tensor,
    list_valid_AL: Tensor,
    k_first: int,
) -> Ranking:
    """The `k_first` answers whose first token is the likeliest, ranked by their likelihood.

    Exact where `k_first` is the list's length (Li et al. 2021 take 128). Equal answers keep the
    list's order. Every rank makes the same number of calls where lists and `k_first` are the same.

    Args:
        list_text_AL: each with start and end token.
        list_valid_AL: True where a real token stands.
    """
    memory = decoder.remember(state_QTD, state_valid_QT)
    num_questions = len(state_QTD)
    start_Q = list_text_AL.new_full((num_questions,), decoder.special.start)
    layout = one_token_layout(num_questions, 1)
    row_QD, start = decoder.read(start_Q, torch.zeros_like(start_Q), layout, memory)
    first_QA = decoder.head(row_QD).float().log_softmax(dim=-1)[:, list_text_AL[:, 1]]
    index_QK = first_QA.argsort(dim=1, descending=True, stable=True)[:, :k_first]
    rest = [
        _rest_likelihood(decoder, memory, start, list_text_AL[index_QC], list_valid_AL[index_QC])
        for index_QC in index_QK.split(_CANDIDATES_A_CALL, dim=1)
    ]
    likelihood_QK = first_QA.gather(1, index_QK) + torch.cat(rest, dim=1)
    order_QK = likelihood_QK.argsort(dim=1, descending=True, stable=True)
    return Ranking(index_QK.gather(1, order_QK), likelihood_QK.gather(1, order_QK))


def _rest_likelihood(
    decoder: AnswerDecoder,
    memory: Memory,
    start: list[Tensor],
    text_QCL: Tensor,
    valid_QCL: Tensor,
) -> Tensor:
    """The log-likelihood [Q, C] of what follows the candidates' first token."""
    num_questions, num_candidates, length = text_QCL.shape
    num_positions = length - 2
    if num_positions == 0:
        return torch.zeros(num_questions, num_candidates, device=text_QCL.device)
    place_M = predicted_places(valid_QCL.flatten(0, 1)[:, 1:])
    question_S = torch.arange(num_questions, device=place_M.device)
    question_S = question_S.repeat_interleave(num_candidates)
    rest = AnswerTexts(text_QCL.flatten(0, 1)[:, 1:], question_S, place_M)
    layout = AnswerLayout(
        words=Slots(place_M, len(question_S), num_positions),
        # A question's candidates stand one behind the other, so these are the same places.
        states=Slots(place_M, num_questions, num_candidates * num_positions),
        question_row_G=None,
        seen_IN=causal(num_positions, 1, place_M.device),
    )
    before = [key_value_Q1E.index_select(0, question_S) for key_value_Q1E in start]
    column_M = place_M % num_positions + 1
    row_MD, _ = decoder.read(rest.input_M, column_M, layout, memory, before)
    return log_likelihood(decoder.head(row_MD), rest).view(num_questions, num_candidates)


@torch.no_grad()
def generate(
    decoder: AnswerDecoder,
    state_QTD: Tensor,
    state_valid_QT: Tensor,
    num_beams: int = 1,
    max_tokens: int | None = None,
) -> Written:
    """The likeliest answers that beam search finds; one beam is greedy search.

    Scores are plain log-likelihoods, which favour no length. Neither start nor padding is written,
    and where only one token is left it is the end. One process stops when every beam has ended;
    several take all steps, as each must make the same calls.

    Args:
        max_tokens: written at most, the end included; None: as many as the decoder was made for.
    """
    num_steps = decoder.max_tokens - 1
    if max_tokens is not None:
        num_steps = min(max(1, max_tokens), num_steps)
    memory = decoder.remember(state_QTD, state_valid_QT)
    beams = _first_beams(len(state_QTD), decoder.special.start, state_QTD.device)
    before = None
    for step in range(num_steps):
        logits_SV, so_far = _next_logits(decoder, beams, step, memory, before)
        only_end = step == num_steps - 1
        beams, parent_S = _extend(beams, _allowed(decoder, logits_SV, only_end), num_beams, decoder)
        before = [key_value_SOE.index_select(0, parent_S) for key_value_SOE in so_far]
        if distributed.world_size() == 1 and bool(beams.ended_QK.all()):
            break
    return Written(beams.text_QKL[:, :, 1:], beams.score_QK)


def cut_at_end(text_L: Sequence[int], special: SpecialIds) -> list[int]:
    """The tokens before the end token."""
    ids = list(text_L)
    return ids[: ids.index(special.end)] if special.end in ids else ids


@dataclass(frozen=True, slots=True)
class _Beams:
    text_QKL: Tensor  # what is written so far, behind the start token
    score_QK: Tensor  # its log-likelihood, best first
    ended_QK: Tensor


def _first_beams(num_questions: int, start_id: int, device: torch.device) -> _Beams:
    return _Beams(
        text_QKL=torch.full((num_questions, 1, 1), start_id, device=device),
        score_QK=torch.zeros(num_questions, 1, device=device),
        ended_QK=torch.zeros(num_questions, 1, dtype=torch.bool, device=device),
    )


def _next_logits(
    decoder: AnswerDecoder,
    beams: _Beams,
    step: int,
    memory: Memory,
    before: list[Tensor] | None,
) -> tuple[Tensor, list[Tensor]]:
    """Logits [S, V] behind each beam's last token, the only one that is computed."""
    last_S = beams.text_QKL[:, :, -1].flatten()
    layout = one_token_layout(*beams.score_QK.shape)
    row_SD, so_far = decoder.read(last_S, torch.full_like(last_S, step), layout, memory, before)
    return decoder.head(row_SD), so_far


def _allowed(decoder: AnswerDecoder, logits_SV: Tensor, only_end: bool) -> Tensor:
    """Log-probabilities [S, V], -inf for what is never written."""
    special = decoder.special
    token_V = torch.arange(logits_SV.shape[1], device=logits_SV.device)
    is_end_V = token_V == special.end
    refused_V = (token_V == special.start) | (token_V == special.pad) & ~is_end_V
    refused_V = ~is_end_V if only_end else refused_V
    return logits_SV.float().log_softmax(dim=-1).masked_fill(refused_V, -torch.inf)


def _extend(
    beams: _Beams, log_probability_SV: Tensor, num_beams: int, decoder: AnswerDecoder
) -> tuple[_Beams, Tensor]:
    """The best continuations, and for each the row [S] that it continues.

    A beam that has ended goes on with padding, which costs nothing.
    """
    num_questions, num_before = beams.score_QK.shape
    vocab_size = log_probability_SV.shape[1]
    padding_V = torch.full_like(log_probability_SV[0], -torch.inf)
    padding_V[decoder.special.pad] = 0.0
    step_QKV = log_probability_SV.view(num_questions, num_before, vocab_size)
    step_QKV = torch.where(beams.ended_QK[..., None], padding_V, step_QKV)
    total_QC = (beams.score_QK[..., None] + step_QKV).flatten(1)
    best = total_QC.topk(min(num_beams, total_QC.shape[1]), dim=1)
    beam_QK, token_QK = best.indices // vocab_size, best.indices % vocab_size
    text_QKL = beams.text_QKL.gather(1, beam_QK[..., None].expand(-1, -1, beams.text_QKL.shape[2]))
    # What cannot be written never becomes likelier: nobody waits for its end.
    ended_QK = beams.ended_QK.gather(1, beam_QK) | best.values.isneginf()
    extended = _Beams(
        torch.cat([text_QKL, token_QK[..., None]], dim=2),
        best.values,
        ended_QK | (token_QK == decoder.special.end),
    )
    first_Q1 = torch.arange(num_questions, device=beam_QK.device)[:, None] * num_before
    return extended, (first_Q1 + beam_QK).flatten()
