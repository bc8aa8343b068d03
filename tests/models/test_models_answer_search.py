"""Ranking and writing answers: equal to trying everything, whatever else is in the batch."""

import pytest
import torch
from tiny_answers import (
    END,
    MAX_TOKENS,
    PAD,
    SPECIAL,
    START,
    VOCAB,
    all_answers,
    make_answers,
    make_decoder,
    make_states,
)
from torch import Tensor

from vlpretrain.models import answer_search
from vlpretrain.models.answer_decoder import (
    AnswerDecoder,
    answer_texts,
    log_likelihood,
)
from vlpretrain.models.answer_search import cut_at_end, generate, rank_answers
from vlpretrain.padding import pad_ids

SEEDS = range(5)
LIST = [[1, 3, 2], [1, 4, 5, 6, 2], [1, 6, 6, 2], [1, 5, 3, 3, 4, 2], [1, 3, 4, 2], [1, 6, 2]]


def likelihood_of_all(decoder: AnswerDecoder, rows: list[list[int]]) -> Tensor:
    """Of every answer for every question by a plain forward, [Q, A]."""
    states = make_states()
    question = [q for q in range(len(states[0])) for _ in rows]
    answers = make_answers(rows * len(states[0]), question)
    return log_likelihood(decoder(*states, answers), answers).view(-1, len(rows)).detach()


def written_rows(text_QKL: Tensor) -> list[list[list[int]]]:
    return [[cut_at_end(row, SPECIAL) for row in rows] for rows in text_QKL.tolist()]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("candidates_a_call", [1, 4, 32])
def test_ranking_all_is_exact(seed, candidates_a_call, monkeypatch):
    monkeypatch.setattr(answer_search, "_CANDIDATES_A_CALL", candidates_a_call)
    decoder = make_decoder(seed)
    ranking = rank_answers(decoder, *make_states(), *pad_ids(LIST, PAD), k_first=len(LIST))
    exact_QA = likelihood_of_all(decoder, LIST)
    best = exact_QA.sort(dim=1, descending=True)
    assert ranking.index_QK.tolist() == best.indices.tolist()
    torch.testing.assert_close(ranking.log_likelihood_QK, best.values)


@pytest.mark.parametrize("seed", SEEDS)
def test_ranking_some_takes_those_with_the_likeliest_first_token(seed):
    decoder = make_decoder(seed)
    ranking = rank_answers(decoder, *make_states(), *pad_ids(LIST, PAD), k_first=3)
    first_QV = decoder(*make_states(), make_answers([[1, 2]] * 4, [0, 1, 2, 3])).log_softmax(-1)
    first_QA = first_QV[:, [row[1] for row in LIST]]
    exact_QA = likelihood_of_all(decoder, LIST)
    for question, (index_K, score_K) in enumerate(
        zip(ranking.index_QK, ranking.log_likelihood_QK, strict=True)
    ):
        lowest_taken = first_QA[question, index_K].min()
        left_out = [a for a in range(len(LIST)) if a not in index_K.tolist()]
        assert (first_QA[question, left_out] <= lowest_taken).all()
        torch.testing.assert_close(score_K, exact_QA[question, index_K])
        assert (score_K.diff() <= 0).all()


def test_equal_answers_keep_the_list_s_order():
    decoder = make_decoder()
    text_AL, valid_AL = pad_ids([LIST[2], LIST[0], LIST[2], LIST[2]], PAD)
    ranking = rank_answers(decoder, *make_states(), text_AL, valid_AL, k_first=4)
    for index_K in ranking.index_QK.tolist():
        assert [index for index in index_K if index != 1] == [0, 2, 3]


def test_a_list_of_the_empty_answer_alone():
    text_AL, valid_AL = pad_ids([[1, 2]], PAD)
    ranking = rank_answers(make_decoder(), *make_states(), text_AL, valid_AL, k_first=1)
    torch.testing.assert_close(
        ranking.log_likelihood_QK, likelihood_of_all(make_decoder(), [[1, 2]])
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_greedy_is_the_likeliest_token_time_and_again(seed):
    decoder = make_decoder(seed)
    state_QTD, valid_QT = make_states()
    written = generate(decoder, state_QTD, valid_QT, num_beams=1)
    for question, (row,) in enumerate(written_rows(written.text_QKL)):
        naive = [START]
        while len(naive) < MAX_TOKENS - 1 and naive[-1] != END:
            one = slice(question, question + 1)
            answers = make_answers([[*naive, END]], [0])
            logits_V = decoder(state_QTD[one], valid_QT[one], answers)[-1]
            logits_V[[PAD, START]] = -torch.inf
            naive.append(int(logits_V.argmax()))
        assert row == cut_at_end(naive[1:], SPECIAL)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("max_tokens", [None, 3, 2, 1])
def test_with_all_beams_the_best_of_all_answers_is_found(seed, max_tokens):
    decoder = make_decoder(seed, vocab=5, max_tokens=5)
    rows = all_answers(5, (max_tokens or 4) - 1)
    written = generate(decoder, *make_states(), num_beams=60, max_tokens=max_tokens)
    best = likelihood_of_all(decoder, rows).sort(dim=1, descending=True)
    found = written.log_likelihood_QK[:, : len(rows)]
    torch.testing.assert_close(found, best.values)
    for texts, order in zip(written_rows(written.text_QKL), best.indices, strict=True):
        assert texts[: len(rows)] == [rows[index][1:-1] for index in order]


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_score_is_the_answer_s_likelihood_and_more_beams_find_better(seed, num_beams):
    decoder = make_decoder(seed)
    written = generate(decoder, *make_states(), num_beams=num_beams)
    for question, rows in enumerate(written_rows(written.text_QKL)):
        exact_QA = likelihood_of_all(decoder, [[START, *row, END] for row in rows])
        torch.testing.assert_close(written.log_likelihood_QK[question], exact_QA[question])
        assert len({tuple(row) for row in rows}) == num_beams
    assert (written.log_likelihood_QK.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("num_beams", [1, 4])
def test_an_answer_does_not_depend_on_the_other_questions(num_beams):
    decoder = make_decoder(3)
    state_QTD, valid_QT = make_states()
    together = generate(decoder, state_QTD, valid_QT, num_beams)
    for question in range(4):
        one = slice(question, question + 1)
        length = int(valid_QT[question].sum())
        alone = generate(decoder, state_QTD[one, :length], valid_QT[one, :length], num_beams)
        rows = written_rows(together.text_QKL[one])
        assert rows == written_rows(alone.text_QKL)
        torch.testing.assert_close(alone.log_likelihood_QK, together.log_likelihood_QK[one])


def test_behind_its_end_an_answer_is_padded():
    for seed in SEEDS:
        for rows in generate(make_decoder(seed), *make_states(), num_beams=3).text_QKL.tolist():
            for row in rows:
                assert row.count(END) == 1
                assert set(row[row.index(END) + 1 :]) <= {PAD}
                assert not {START, PAD} & set(row[: row.index(END)])


def test_writing_stops_when_all_have_ended():
    decoder = make_decoder()
    decoder.head.bias.data[END] = 1e3
    steps = count_reads(decoder)
    assert generate(decoder, *make_states(), num_beams=1).text_QKL.tolist() == [[[END]]] * 4
    assert steps == [4]


def test_several_processes_take_all_steps(monkeypatch):
    monkeypatch.setattr(answer_search.distributed, "world_size", lambda: 2)
    decoder = make_decoder()
    decoder.head.bias.data[END] = 1e3
    steps = count_reads(decoder)
    written = generate(decoder, *make_states(), num_beams=1)
    assert written_rows(written.text_QKL) == [[[]]] * 4
    assert len(steps) == MAX_TOKENS - 1


def test_a_step_computes_the_new_token_alone():
    decoder = make_decoder(1)
    rows = count_reads(decoder)
    generate(decoder, *make_states(), num_beams=2)
    assert rows[0] == 4
    assert set(rows[1:]) == {8}


def count_reads(decoder: AnswerDecoder) -> list[int]:
    """Fills with the number of tokens that each call embeds."""
    rows: list[int] = []
    decoder.word_embed.register_forward_hook(
        lambda module, inputs, output: rows.append(len(inputs[0]))
    )
    return rows


def test_a_padding_id_that_is_the_end_id():
    """Tokenizers without a padding token pad with their end token."""
    decoder = make_decoder(2)
    plain = generate(decoder, *make_states(), num_beams=3)
    decoder.special = type(SPECIAL)(START, END, END)
    same = generate(decoder, *make_states(), num_beams=3)
    decoder.special = type(SPECIAL)(START, END, PAD)
    # The former padding id is then an ordinary word.
    assert all(row.count(END) for rows in same.text_QKL.tolist() for row in rows)
    assert same.log_likelihood_QK.shape == plain.log_likelihood_QK.shape


def test_nothing_found_here_has_a_gradient():
    decoder = make_decoder()
    assert not generate(decoder, *make_states()).log_likelihood_QK.requires_grad
    ranking = rank_answers(decoder, *make_states(), *pad_ids(LIST, PAD), k_first=2)
    assert not ranking.log_likelihood_QK.requires_grad


def test_answers_of_a_mask_that_lies_elsewhere():
    """Validity is told by the mask, never by a token's id."""
    text_SL = torch.tensor([[START, PAD, END, 5]])
    answers = answer_texts(text_SL, torch.tensor([[True, True, True, False]]), torch.tensor([0]))
    assert answers.target_M.tolist() == [PAD, END]
    assert make_decoder()(*make_states(1), answers).shape == (2, VOCAB)
