"""The answer decoder: what a token's logits depend on, in every layout, and the loss."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_answers import (
    END,
    MAX_TOKENS,
    QUESTION,
    ROWS,
    SPECIAL,
    START,
    VOCAB,
    make_answers,
    make_decoder,
    make_states,
)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vlpretrain.models import answer_decoder as decoder_module
from vlpretrain.models.answer_decoder import (
    AnswerDecoder,
    AnswerTexts,
    answer_loss,
    frame_answer,
    log_likelihood,
)


@pytest.fixture
def decoder() -> AnswerDecoder:
    return make_decoder()


def gradients(decoder: AnswerDecoder, logits_MV: Tensor) -> list[Tensor]:
    weight_M1 = torch.linspace(-1, 1, len(logits_MV))[:, None]
    total = (logits_MV.sin() * weight_M1).sum()
    return list(torch.autograd.grad(total, list(decoder.parameters())))


def one_by_one(decoder: AnswerDecoder) -> Tensor:
    """Each answer by a call of its own, without padding and without other questions."""
    state_QTD, valid_QT = make_states()
    rows = []
    for row, question in zip(ROWS, QUESTION, strict=True):
        length = int(valid_QT[question].sum())
        state_1TD = state_QTD[question : question + 1, :length]
        valid_1T = torch.ones(1, length, dtype=torch.bool)
        rows.append(decoder(state_1TD, valid_1T, make_answers([row], [0])))
    return torch.cat(rows)


@pytest.mark.parametrize("training", [True, False])
def test_an_answer_depends_on_itself_and_its_question_alone(decoder, training):
    decoder.train(training)
    together, alone = decoder(*make_states(), make_answers()), one_by_one(decoder)
    torch.testing.assert_close(together, alone)
    for ours, theirs in zip(gradients(decoder, together), gradients(decoder, alone), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_there_is_one_row_of_logits_a_real_token_behind_the_first(decoder):
    logits_MV = decoder(*make_states(), make_answers())
    assert logits_MV.shape == (sum(len(row) - 1 for row in ROWS), VOCAB)
    assert make_answers().target_M.tolist() == [token for row in ROWS for token in row[1:]]


@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_a_token_changes_no_logit_before_it(decoder, place):
    row = [START, 3, 4, 5, 6, END]
    other = [*row[:place], 3 if row[place] != 3 else 4, *row[place + 1 :]]
    states = make_states(1)
    first, second = (decoder(*states, make_answers([each], [0])) for each in (row, other))
    torch.testing.assert_close(first[:place], second[:place], rtol=0, atol=0)
    assert not torch.allclose(first[place], second[place])


def test_padding_may_hold_anything(decoder):
    state_QTD, valid_QT = make_states()
    answers = make_answers()
    filled_QTD = state_QTD.masked_fill(~valid_QT[..., None], 1e4)
    is_padding = answers.text_SL == SPECIAL.pad
    other = replace(answers, text_SL=answers.text_SL.masked_fill(is_padding, 5))
    torch.testing.assert_close(
        decoder(filled_QTD, valid_QT, other), decoder(state_QTD, valid_QT, answers)
    )


def test_grouped_keys_and_a_copy_for_each_answer_agree(decoder, monkeypatch):
    results = []
    for packs in (True, False):
        monkeypatch.setattr(decoder_module, "packs_rows", lambda device, packs=packs: packs)
        logits_MV = decoder(*make_states(), make_answers())
        results.append([logits_MV, *gradients(decoder, logits_MV)])
    for grouped, copied in zip(*results, strict=True):
        torch.testing.assert_close(grouped, copied, rtol=1e-4, atol=1e-5)


def test_a_question_s_states_are_projected_once_a_layer(decoder):
    seen: list[int] = []
    for layer in decoder.layers:
        layer.states.key_value.register_forward_hook(
            lambda module, inputs, output: seen.append(inputs[0].shape[:-1].numel())
        )
    decoder(*make_states(), make_answers())
    assert seen == [4 * 5] * 2


def test_no_real_token_no_work(decoder):
    seen: list[int] = []
    for module in (decoder.head, *(layer.feed for layer in decoder.layers)):
        module.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    decoder(*make_states(), make_answers())
    assert seen == [sum(len(row) - 1 for row in ROWS)] * 3


def test_the_host_never_waits_for_a_gpu(monkeypatch):
    monkeypatch.setattr(decoder_module, "packs_rows", lambda device: False)
    decoder = make_decoder()
    with FakeTensorMode(allow_non_fake_inputs=True):
        answers = AnswerTexts(
            text_SL=torch.ones(5, 6, dtype=torch.int64),
            question_S=torch.zeros(5, dtype=torch.int64),
            place_M=torch.zeros(9, dtype=torch.int64),
        )
        valid_QT = torch.ones(4, 3, dtype=torch.bool)
        logits_MV = decoder(torch.randn(4, 3, 16), valid_QT, answers)
        assert logits_MV.shape == (9, VOCAB)
        assert answer_loss(logits_MV, answers, torch.ones(5)).shape == ()


def test_every_parameter_and_state_gets_a_gradient(decoder):
    state_QTD, valid_QT = make_states()
    state_QTD.requires_grad_()
    answers = make_answers()
    decoder.train()
    answer_loss(decoder(state_QTD, valid_QT, answers), answers, torch.ones(5)).backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None] == []
    moved_QT = state_QTD.grad.abs().sum(-1) > 0
    assert (moved_QT == (valid_QT & torch.tensor([[1], [1], [0], [1]]).bool())).all()


def test_no_answer_is_no_loss_and_no_error(decoder):
    answers = make_answers([], [])
    loss = answer_loss(decoder(*make_states(), answers), answers, torch.ones(0))
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or not p.grad.any() for p in decoder.parameters())


def test_the_likelihood_is_the_sum_over_a_whole_forward(decoder):
    state_QTD, valid_QT = make_states()
    answers = make_answers()
    likelihood_S = log_likelihood(decoder(state_QTD, valid_QT, answers), answers)
    for row, question, likelihood in zip(ROWS, QUESTION, likelihood_S, strict=True):
        one = slice(question, question + 1)
        logits_MV = decoder(state_QTD[one], valid_QT[one], make_answers([row], [0]))
        naive = sum(
            logits_V.log_softmax(-1)[token]
            for logits_V, token in zip(logits_MV, row[1:], strict=True)
        )
        torch.testing.assert_close(likelihood, naive)


def test_the_loss_weighs_answers_and_sums_their_tokens(decoder):
    answers = make_answers()
    weight_S = torch.tensor([0.3, 1.0, 0.0, 0.7, 1.0])
    logits_MV = decoder(*make_states(), answers)
    token_M = F.cross_entropy(logits_MV, answers.target_M, reduction="none")
    weight_M = torch.cat([w.expand(len(row) - 1) for w, row in zip(weight_S, ROWS, strict=True)])
    torch.testing.assert_close(
        answer_loss(logits_MV, answers, weight_S), (token_M * weight_M).sum()
    )
    assert answer_loss(logits_MV.bfloat16(), answers, weight_S).dtype == torch.float32


def test_an_untrained_decoder_knows_nothing():
    decoder = AnswerDecoder(64, 1000, 2, 2, 0.0, MAX_TOKENS, SPECIAL)
    logits_MV = decoder(torch.randn(4, 5, 64), torch.ones(4, 5) > 0, make_answers())
    loss = F.cross_entropy(logits_MV, make_answers().target_M)
    assert loss.item() == pytest.approx(math.log(1000), rel=0.02)


def test_it_learns_what_an_answer_says_of_its_question():
    """Two questions that differ in their states alone have different answers."""
    decoder, answers = make_decoder(), make_answers([[1, 3, 4, 2], [1, 3, 5, 2]], [0, 1])
    optimiser = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        loss = answer_loss(decoder(*make_states(2), answers), answers, torch.ones(2))
        loss.backward()
        optimiser.step()
    assert loss < 0.1


def test_answers_are_framed_once():
    assert frame_answer([], SPECIAL) == [START, END]
    assert frame_answer([5], SPECIAL) == [START, 5, END]
    assert frame_answer([START, 5, END], SPECIAL) == [START, 5, END]


def test_an_answer_that_is_too_long_is_refused(decoder):
    with pytest.raises(ValueError, match="7 tokens"):
        decoder(*make_states(), make_answers([[1, 3, 3, 3, 3, 3, 2]], [0]))
