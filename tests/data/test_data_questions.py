"""Records of questions to rows and micro-batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from question_shards import BROKEN, ask, noise, png, sample_of

from vlpretrain.data.questions import (
    QuestionRecipe,
    QuestionRow,
    QuestionSettings,
    read_questions,
)
from vlpretrain.data.sample import SampleError
from vlpretrain.data.tokenise import train_wordpiece
from vlpretrain.data.transforms import PictureSettings
from vlpretrain.metrics.vqa import normalise_answer, soft_scores
from vlpretrain.types import COUNTS, QuestionBatch

VOCABULARY = {"red": 0, "blue": 1, "yes": 2}
TEXTS = ["what colour is it", "is it big or small", "red blue yes no the dark sea"]


@pytest.fixture(scope="module")
def recipe() -> QuestionRecipe:
    settings = QuestionSettings(PictureSettings(image_size=16, seed=3), max_tokens=8)
    return QuestionRecipe(
        train_wordpiece(TEXTS * 3, 80), settings, VOCABULARY, soft_scores, normalise_answer
    )


def changed(recipe: QuestionRecipe, **settings: Any) -> QuestionRecipe:
    return replace(recipe, settings=replace(recipe.settings, **settings))


def read_answers(answers: Any) -> tuple[str, ...]:
    return read_questions(sample_of([ask("what?", answers)]))[0].answers


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["a", "b", "a"], ("a", "b", "a")),
        ("a cat", ("a cat",)),
        ({"a": 2, "b": 1.0, "never": 0}, ("a", "a", "b")),
        ({"a": 0.8, "b": 0.2}, ("a",) * 8 + ("b",) * 2),
        ({"a": 1.0, "rare": 0.001}, ("a",) * 10 + ("rare",)),
        (None, ()),
        ([], ()),
        ({}, ()),
    ],
)
def test_answers_are_a_list_a_text_or_weights(answers: Any, expected: tuple[str, ...]) -> None:
    assert read_answers(answers) == expected


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([1], "question 7"),
        (3, "no list of texts, text or weights"),
        ({"a": -1}, "the weight -1"),
        ({"a": "2"}, "the weight '2'"),
        ({"a": float("nan")}, "the weight nan"),
        ({"a": 10**400}, "the weight 1000"),
        ({"a": 999, "b": 2}, "1001 answers"),
    ],
)
def test_other_answers_are_an_error_that_names_the_question(answers: Any, problem: str) -> None:
    with pytest.raises(SampleError, match=problem) as caught:
        read_questions(sample_of([ask("what?", answers, question_id=7)]))
    assert "question 7" in str(caught.value)


def test_a_question_is_read_whole() -> None:
    record = ask(
        " is it? ", "no", question_id=5, question_type="is it", answer_type="yes/no", group=0
    )
    (question,) = read_questions(sample_of([record]))
    assert (question.text, question.answers, question.id) == ("is it?", ("no",), 5)
    assert (question.type, question.answer_type, question.group) == ("is it", "yes/no", "0")


def test_questions_without_an_id_are_told_apart_by_sample_and_number() -> None:
    records = [ask("a"), ask("b", question_id=None), ask("c", question_id=[])]
    assert [one.id for one in read_questions(sample_of(records, key="s1"))] == [
        "s1/0",
        "s1/1",
        "s1/2",
    ]


@pytest.mark.parametrize(
    ("questions", "problem"),
    [("what?", "is a str, not a list"), (["what?"], "question 0"), ([ask("a"), {}], "question 1")],
)
def test_records_of_another_form_are_an_error(questions: Any, problem: str) -> None:
    with pytest.raises(SampleError, match=problem):
        read_questions(sample_of(questions))


def test_a_sample_without_questions_has_none() -> None:
    sample = sample_of([])
    assert read_questions(replace(sample, metadata={"captions": ["a"]})) == []


@pytest.mark.parametrize(
    ("sample", "problem"),
    [
        (sample_of([]), "no question"),
        (sample_of([ask("a"), ask("b", [], question_id=9)]), "question 9 has no answer"),
        (sample_of([ask("a")], images=[BROKEN]), "picture"),
        (replace(sample_of([ask("a")]), images=()), "0 pictures where a question is about 1"),
    ],
)
def test_what_cannot_be_trained_on_is_named(
    recipe: QuestionRecipe, sample: Any, problem: str
) -> None:
    with pytest.raises(SampleError, match=problem):
        recipe.row(sample, 0, 0)


def test_the_questions_of_a_step_are_keyed_by_seed_epoch_and_sample(
    recipe: QuestionRecipe,
) -> None:
    some = changed(recipe, per_picture=3)
    texts = [f"question {number}" for number in range(9)]
    sample = sample_of([ask(text) for text in texts])

    def chosen(epoch: int, sample: Any = sample, recipe: QuestionRecipe = some) -> tuple[str, ...]:
        return recipe.row(sample, epoch, 0).questions

    epochs = [chosen(epoch) for epoch in range(12)]
    assert epochs == [chosen(epoch) for epoch in range(12)]
    assert len(set(epochs)) > 3
    assert {text for epoch in epochs for text in epoch} == set(texts)
    assert all(list(epoch) == sorted(set(epoch)) for epoch in epochs)  # in their order, none twice
    assert len({chosen(0, replace(sample, key=f"k{number}")) for number in range(9)}) > 3
    other_seed = changed(some, picture=replace(some.settings.picture, seed=4))
    assert [chosen(epoch, recipe=other_seed) for epoch in range(12)] != epochs
    assert chosen(0, recipe=recipe) == tuple(texts)


def test_answers_carry_place_score_and_share(recipe: QuestionRecipe) -> None:
    humans = ["red"] * 2 + ["Red"] + ["the blue"] * 1 + ["sea"] * 6
    (answers,) = recipe.row(sample_of([ask("what?", humans)]), 0, 0).answers
    assert {one.text: (one.index, one.score, one.share) for one in answers} == {
        "red": (0, pytest.approx(0.9), 0.3),
        "blue": (1, pytest.approx(0.3), 0.1),
        "sea": (-1, 1.0, 0.6),
    }


def test_an_answer_is_taught_as_it_is_written(recipe: QuestionRecipe) -> None:
    spelt = replace(recipe, written={"sea": "the sea"})
    (answers,) = spelt.row(sample_of([ask("what?", ["the sea", "the sea", "red"])]), 0, 0).answers
    assert [one.text for one in answers] == ["the sea", "red"]


def batch_of(recipe: QuestionRecipe, *samples: Any) -> QuestionBatch:
    return recipe.collate([recipe.row(sample, 0, 0) for sample in samples])


def test_a_batch_reads_each_distinct_text_once(recipe: QuestionRecipe) -> None:
    batch = batch_of(
        recipe,
        sample_of([ask("is it red"), ask("is it big")], key="a"),
        sample_of([ask("is it big", "no")], key="b"),
        sample_of([ask("is it red")], key="c"),
    )
    assert batch.text_RT.shape[0] == 2
    assert batch.text_row_Q.tolist() == [0, 1, 1, 0]
    assert batch.image_row_QP.tolist() == [[0], [0], [1], [2]]
    assert batch.keys == ("a.tar/a", "a.tar/b", "a.tar/c")
    counts = dict(zip(COUNTS, batch.counts.tolist(), strict=True))
    assert (counts["questions"], counts["images"]) == (4, 3)
    assert sum(counts.values()) == 7
    assert torch.equal(batch.mean_counts, batch.counts)


def test_answers_of_a_batch_name_their_question(recipe: QuestionRecipe) -> None:
    batch = batch_of(
        recipe,
        sample_of([ask("a", ["red", "blue"]), ask("b", "unheard of")]),
        sample_of([ask("c", "yes")]),
    )
    assert batch.answer_question_S.tolist() == [0, 0, 1, 2]
    assert batch.answer_index_S.tolist() == [0, 1, -1, 2]
    assert batch.answer_share_S.tolist() == [0.5, 0.5, 1.0, 1.0]
    assert not len(batch.answer_place_M)  # a classifier's answers are no text


def test_a_decoders_answers_are_tokens(recipe: QuestionRecipe) -> None:
    decoder = changed(recipe, max_answer_tokens=4)
    batch = batch_of(
        decoder, sample_of([ask("a", "red"), ask("b", "dark sea red blue yes"), ask("c", "")])
    )
    (red,) = decoder.tokeniser.encode(["red"])
    lengths = [3, 4, 2]
    assert batch.answer_text_SL.shape == (3, 4)
    assert batch.answer_text_SL[0, :3].tolist() == red.ids
    assert batch.answer_text_SL[1, -1] == red.ids[-1]  # cut, and ended
    expected = [s * 3 + i for s, length in enumerate(lengths) for i in range(length - 1)]
    assert batch.answer_place_M.tolist() == expected


def test_a_question_about_two_pictures_names_both(recipe: QuestionRecipe) -> None:
    two = changed(recipe, num_pictures=2, picture=PictureSettings(image_size=16, crop="centre"))
    samples = [
        sample_of([ask("a"), ask("b")], images=[png(10), png(20)]),
        sample_of([ask("c")], images=[png(30), png(40)]),
    ]
    batch = batch_of(two, *samples)
    assert batch.image_row_QP.tolist() == [[0, 1], [0, 1], [2, 3]]
    assert batch.pixels_ICHW.flatten(1).float().mean(1).tolist() == [10, 20, 30, 40]
    with pytest.raises(SampleError, match="1 pictures where a question is about 2"):
        two.row(sample_of([ask("a")]), 0, 0)
    with pytest.raises(SampleError, match="2 pictures where a question is about 1"):
        recipe.row(samples[1], 0, 0)


def test_two_pictures_are_not_cropped_alike(recipe: QuestionRecipe) -> None:
    two = changed(recipe, num_pictures=2)
    row = two.row(sample_of([ask("a")], images=[noise(), noise()]), 0, 0)
    assert not torch.equal(*row.pixels)


def test_a_blank_row_holds_pictures_that_nothing_asks_about(recipe: QuestionRecipe) -> None:
    two = changed(recipe, num_pictures=2)
    batch = two.collate([two.blank(), two.row(sample_of([ask("a")], images=[png(9)] * 2), 0, 0)])
    assert batch.pixels_ICHW.shape == (4, 3, 16, 16)
    assert batch.image_row_QP.tolist() == [[2, 3]]
    assert not batch.pixels_ICHW[:2].any()
    counts = dict(zip(COUNTS, batch.counts.tolist(), strict=True))
    assert (counts["questions"], counts["images"]) == (1, 1)
    alone: QuestionRow = two.blank()
    assert not two.collate([alone]).counts.any()


def test_blind_sees_black_and_needs_no_picture(recipe: QuestionRecipe) -> None:
    blind = changed(recipe, blind=True, num_pictures=2)
    sample = replace(sample_of([ask("a")], images=[BROKEN]), images=())
    row = blind.row(sample, 0, 0)
    assert len(row.pixels) == 2
    assert not torch.stack(row.pixels).any()


def test_still_takes_all_questions_and_the_middle(recipe: QuestionRecipe) -> None:
    training = changed(recipe, per_picture=1)
    sample = sample_of([ask("a"), ask("b", [])])
    still = training.still()
    rows = [still.row(sample, epoch, 0) for epoch in range(3)]
    assert [row.questions for row in rows] == [("a", "b")] * 3
    assert rows[0].answers[1] == ()
    assert torch.equal(rows[0].pixels[0], rows[2].pixels[0])
    assert still.settings.picture.crop == "centre"
