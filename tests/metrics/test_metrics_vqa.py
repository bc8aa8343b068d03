"""The official VQA accuracy: its own figures, and what follows from its rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlpretrain.metrics.vqa import (
    OTHER_QUESTIONS,
    answer_type_of,
    normalise_answer,
    question_type_of,
    results_record,
    soft_scores,
    vqa_accuracy,
    written_forms,
)

GOLDEN = json.loads((Path(__file__).parent / "golden_vqa.json").read_text(encoding="utf-8"))
ALL_GOLDEN = [
    folder / "shared/data/vqa_eval_golden"
    for folder in Path(__file__).resolve().parents
    if (folder / "shared/data/vqa_eval_golden").is_dir()
]
needs_all = pytest.mark.skipif(not ALL_GOLDEN, reason="the whole of the figures is not here")


def all_golden(name: str) -> Any:
    return json.loads((ALL_GOLDEN[0] / name).read_text(encoding="utf-8"))


def reference_accuracy(said: str, truths: list[str]) -> float:
    """The definition, written out: leave each human out in turn."""
    size = min(3, len(truths) - 1)
    parts = []
    for left_out in range(len(truths)):
        others = truths[:left_out] + truths[left_out + 1 :]
        parts.append(min(1.0, others.count(said) / size))
    return sum(parts) / len(parts)


@pytest.mark.parametrize(("text", "normalised"), GOLDEN["normalise"])
def test_normalises_as_the_official_evaluation(text: str, normalised: str) -> None:
    assert normalise_answer(text) == normalised


def test_accuracy_equals_the_official() -> None:
    for prediction, percent, answers in GOLDEN["accuracy"]:
        assert vqa_accuracy(prediction, answers) == pytest.approx(percent / 100, abs=1e-9)


@needs_all
def test_normalises_as_all_the_figures_say() -> None:
    pairs = all_golden("normalise.json")["pairs"]
    assert [normalise_answer(text) for text, _ in pairs] == [normalised for _, normalised in pairs]


@needs_all
def test_accuracy_equals_all_the_figures() -> None:
    cases = all_golden("accuracy.json")["cases"]
    assert len(cases) == 200
    found = [vqa_accuracy(case["prediction"], case["answers"]) for case in cases]
    assert found == pytest.approx([case["accuracy"] / 100 for case in cases], abs=1e-9)


@needs_all
def test_soft_scores_equal_all_the_figures_where_humans_disagree() -> None:
    for case in all_golden("accuracy.json")["cases"]:
        if len(set(case["answers"])) > 1:
            score = soft_scores(case["answers"]).get(normalise_answer(case["prediction"]), 0.0)
            assert score == pytest.approx(case["accuracy"] / 100, abs=1e-9)


def test_a_mark_goes_by_whether_one_of_its_kind_touches_a_space() -> None:
    assert normalise_answer("red/blue") == "red blue"
    assert normalise_answer("red/blue / green") == "redblue green"
    assert normalise_answer("red/blue - green") == "red blue green"
    assert normalise_answer("red/blue 1,000") == "redblue 1000"


def test_a_line_break_is_a_space_before_marks_are_looked_at() -> None:
    assert normalise_answer("red/\nblue/green") == "red bluegreen"
    assert normalise_answer("red/blue/\n") == normalise_answer("red/blue/") == "red blue"


def test_the_thirty_third_full_stop_stays() -> None:
    assert normalise_answer("u" + "." * 33 + "s") == "u.s"


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("somebody'd", "somebodyd"),
        ("wed've", "we'd've"),
        ("its", "its"),
        ("shed", "shed"),
        ("im", "im"),
        ("50% : $5 #1", "50% : $5 #1"),
    ],
)
def test_contractions_and_marks_that_stay(text: str, normalised: str) -> None:
    assert normalise_answer(text) == normalised


@given(st.text(max_size=20))
def test_normalising_takes_any_text(text: str) -> None:
    assert normalise_answer(text) == " ".join(normalise_answer(text).split())


def test_text_is_compared_as_written_where_all_humans_agree() -> None:
    assert vqa_accuracy("none", ["none"] * 10) == 1.0
    assert vqa_accuracy("0", ["none"] * 10) == 0.0
    assert vqa_accuracy("0", ["none"] * 9 + ["red"]) == 1.0


@pytest.mark.parametrize(
    ("num_matches", "num_answers", "accuracy"),
    [
        (1, 1, 1),
        (1, 2, 1 / 2),
        (2, 3, 2 / 3),
        (3, 4, 3 / 4),
        (3, 5, 4 / 5),
        (4, 5, 1),
        (3, 10, 0.9),
    ],
)
def test_any_number_of_answers(num_matches: int, num_answers: int, accuracy: float) -> None:
    answers = ["red"] * num_matches + ["blue"] * (num_answers - num_matches)
    assert vqa_accuracy("red", answers) == pytest.approx(accuracy)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["red", "blue", "2"]), min_size=2, max_size=14))
def test_closed_form_equals_leaving_each_human_out(answers: list[str]) -> None:
    for said in ("red", "blue", "2", "green"):
        assert vqa_accuracy(said, answers) == pytest.approx(reference_accuracy(said, answers))


def test_a_single_answer_is_normalised() -> None:
    assert vqa_accuracy("t shirt", ["T-shirt."]) == 1.0
    assert vqa_accuracy("shirt", ["T-shirt."]) == 0.0


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["Yes.", "yes", "a dog", "dog", "none", "0"]), min_size=1, max_size=10)
)
def test_soft_scores_are_what_the_written_form_gets(answers: list[str]) -> None:
    forms = written_forms([answers])
    for answer, score in soft_scores(answers).items():
        assert vqa_accuracy(forms.get(answer, answer), answers) == pytest.approx(score)


def test_written_forms_are_those_of_agreement() -> None:
    told = [["none"] * 10, ["None"] * 10, ["none"] * 3, ["T-Shirt"] * 9 + ["red"], ["0"]]
    assert written_forms(told) == {"0": "none"}


def test_given_scores_are_kept_and_merged() -> None:
    assert soft_scores({"a dog": 0.3, "dog": 0.9, "cat": 0.3}) == {"dog": 1.0, "cat": 0.3}
    assert vqa_accuracy("the cat", {"a dog": 0.3, "cat": 0.3}) == 0.3
    assert vqa_accuracy("cow", {"dog": 1.0}) == 0.0


@pytest.mark.parametrize("answers", [[], "yes"])
def test_what_is_no_list_of_answers_is_refused(answers: Any) -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        vqa_accuracy("yes", answers)
    with pytest.raises(ValueError, match="at least one answer"):
        soft_scores(answers)


def test_the_longest_beginning_of_whole_words_is_the_type() -> None:
    types = {"is", "is this", "is this a", "what color is the", "how many"}
    assert question_type_of("Is this a dog?", types) == "is this a"
    assert question_type_of("Is this anything?", types) == "is this"
    assert question_type_of("What color is he?", types) == OTHER_QUESTIONS
    assert question_type_of("How many, please?") == "how many"
    assert question_type_of("?") == OTHER_QUESTIONS


@needs_all
def test_official_types_of_questions() -> None:
    text = (ALL_GOLDEN[0] / "mscoco_question_types.txt").read_text(encoding="utf-8")
    types = set(text.splitlines())
    assert question_type_of("What is the man holding?", types) == "what is the man"
    assert question_type_of("Is this an apple?", types) == "is this an"
    assert question_type_of("Name it.", types) == OTHER_QUESTIONS in types


def test_answer_types() -> None:
    found = [answer_type_of(text) for text in ("Yes.", "two", "1,000", "2.5", "red", "2 dogs", "")]
    assert found == ["yes/no", "number", "number", "number", "other", "other", "other"]


def test_a_record_for_the_server() -> None:
    assert results_record(7, "red") == {"question_id": 7, "answer": "red"}
