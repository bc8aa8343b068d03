"""What the question-only and the most-frequent-answer baselines answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlpretrain.metrics.language_prior import Asked, MostFrequentAnswer, QuestionOnly, score_priors

TRAINING = [
    Asked("What color is the car?", ["red"] * 10),
    Asked("what color is the CAR", ["red"] * 7 + ["blue"] * 3),
    Asked("What color is the sky?", ["blue"] * 10),
    Asked("What color is the sea?", ["blue"] * 10),
    Asked("What is this?", ["yes"] * 10),
    Asked("Is it?", ["yes"] * 10),
    Asked("Is it?", ["no"] * 10),
    Asked("Is he?", ["yes"] * 10),
]
WORD = st.sampled_from(["is", "it", "he", "red"])
QUESTION = st.lists(WORD, min_size=1, max_size=4).map(" ".join)
ASKED = st.builds(Asked, QUESTION, st.sampled_from(["yes", "no", "2"]).map(lambda answer: [answer]))


def reference_answer(training: list[Asked], question: str) -> str:
    """Looks through all training questions; every answer is a single one."""
    words = question.split()
    overall = [asked.answers[0] for asked in training]
    told = [asked.answers[0] for asked in training if asked.question.split() == words]
    for length in range(len(words), -1, -1):
        told = told or [
            asked.answers[0]
            for asked in training
            if asked.question.split()[:length] == words[:length]
        ]
    return min(told, key=lambda answer: (-told.count(answer), -overall.count(answer), answer))


def test_the_same_question_in_other_spelling_is_the_same() -> None:
    assert QuestionOnly(TRAINING).answer("what COLOR is the car ?") == "red"


def test_an_unseen_question_goes_by_the_longest_shared_beginning() -> None:
    baseline = QuestionOnly(TRAINING)
    assert baseline.answer("What color is the house?") == "blue"
    assert baseline.answer("What is that?") == "yes"
    assert baseline.answer("Is that a dog?") == "yes"


def test_without_shared_words_it_is_the_most_frequent_answer() -> None:
    assert QuestionOnly(TRAINING).answer("Why?") == MostFrequentAnswer(TRAINING).answer("Why?")
    assert MostFrequentAnswer(TRAINING).answer("anything") == "yes"


def test_beginnings_are_whole_words() -> None:
    training = [Asked("is it red", ["no"]), Asked("is items red", ["yes"]), Asked("of", ["yes"])]
    assert QuestionOnly(training).answer("is it blue") == "no"


def test_ties_go_by_all_questions_then_by_the_alphabet() -> None:
    assert QuestionOnly(TRAINING).answer("Is it?") == "yes"
    even = [Asked("is it", ["no"]), Asked("is it", ["yes"])]
    assert QuestionOnly(even).answer("is it") == "no"
    assert MostFrequentAnswer(even[::-1]).answer("is it") == "no"


@settings(deadline=None)
@given(st.lists(ASKED, min_size=1, max_size=12), QUESTION)
def test_equals_looking_through_all_questions(training: list[Asked], question: str) -> None:
    assert QuestionOnly(training).answer(question) == reference_answer(training, question)


@given(st.lists(ASKED, min_size=1, max_size=12), st.randoms())
def test_the_order_of_the_training_questions_is_nothing(training: list[Asked], random) -> None:
    shuffled = random.sample(training, len(training))
    for question in ("is", "is it", "red he"):
        assert QuestionOnly(training).answer(question) == QuestionOnly(shuffled).answer(question)


def test_an_answer_is_written_as_humans_who_agreed_wrote_it() -> None:
    training = [Asked("how many", ["none"] * 10)]
    scores = score_priors(training, [Asked("how many", ["none"] * 10)])
    assert scores.question_only.tolist() == scores.most_frequent.tolist() == [1.0]


def test_scores_are_the_official_accuracies_of_held_out_questions() -> None:
    held_out = [
        Asked("What color is the car?", ["red"] * 2 + ["blue"] * 8),
        Asked("Is it so?", ["yes"] * 10),
        Asked("Why?", {"yes": 0.3}),
    ]
    scores = score_priors(TRAINING, held_out)
    assert scores.question_only.tolist() == pytest.approx([0.6, 1.0, 0.3])
    assert scores.most_frequent.tolist() == pytest.approx([0.0, 1.0, 0.3])


def test_no_training_question_is_refused() -> None:
    for baseline in (QuestionOnly, MostFrequentAnswer):
        with pytest.raises(ValueError, match="at least one training question"):
            baseline([])
