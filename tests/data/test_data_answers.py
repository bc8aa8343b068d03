"""Which answers a classifier chooses among."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from question_shards import ask, open_folder, write_shard

from vlpretrain.data.answers import (
    AnswerVocabulary,
    build_vocabulary,
    coverage_of,
    training_questions,
)
from vlpretrain.data.questions import Question
from vlpretrain.errors import UserError
from vlpretrain.metrics.vqa import soft_scores, written_forms


def questions(*answers: Sequence[str]) -> list[Question]:
    return [Question("what?", tuple(given), number) for number, given in enumerate(answers)]


def build(
    asked: Sequence[Question], top: int = 0, min_count: int = 1, min_coverage: float = 0.0
) -> AnswerVocabulary:
    return build_vocabulary(
        asked,
        soft_scores,
        written_forms,
        top=top,
        min_count=min_count,
        min_coverage=min_coverage,
    )


# Answers best: red 3 times, blue twice, green and tan once.
ASKED = questions(["red"], ["Red."], ["the red"], ["blue"], ["blue", "blue", "tan"], ["green"])
ASKED += questions(["tan"])


def test_the_most_frequent_answers_come_first_and_ties_by_the_alphabet() -> None:
    assert build(ASKED).answers == ("red", "blue", "green", "tan")
    assert build(ASKED, top=2).answers == ("red", "blue")
    assert build(ASKED, min_count=2).answers == ("red", "blue")
    assert build(ASKED, top=1, min_count=2).answers == ("red",)


def test_all_answers_that_answer_best_count() -> None:
    vocabulary = build(questions(["a cat", "dog"], ["dog", "dog", "cow"]))
    assert vocabulary.answers == ("dog", "cat")


def test_the_order_of_the_questions_changes_nothing() -> None:
    assert build(ASKED) == build(ASKED[::-1])


def test_coverage_is_the_share_of_what_the_best_answers_score() -> None:
    assert build(ASKED).coverage == 1.0
    # Of 7 questions red is best for 3; the fifth's best scores 2/3.
    assert build(ASKED, top=1).coverage == pytest.approx(3 / (6 + 2 / 3))
    # Humans who disagree leave less to reach, and all of it is reached.
    assert build(questions(["a", "b", "c", "d"])).coverage == 1.0
    assert build(ASKED, top=2).num_questions == 7


def test_too_small_a_vocabulary_says_how_much_it_covers_and_what_to_raise() -> None:
    with pytest.raises(UserError) as caught:
        build(ASKED, top=1, min_coverage=0.5)
    assert "the 1 answers of the vocabulary answer 45.0 %" in caught.value.problem
    assert "under 50 %; there are 4 distinct answers" in caught.value.problem
    assert caught.value.where == "task.vqa.top_answers"
    assert "raise task.vqa.top_answers" in caught.value.fix
    assert "lower task.vqa.min_count" in caught.value.fix
    assert build(ASKED, top=1, min_coverage=0.44).answers == ("red",)


def test_min_count_may_leave_nothing() -> None:
    with pytest.raises(UserError, match=r"the 0 answers .* 0\.0 %"):
        build(ASKED, min_count=9, min_coverage=0.5)


def test_answers_are_written_as_people_write_them() -> None:
    vocabulary = build(questions(["The Sea", "The Sea"], ["two", "2"], ["Two", "Two"]))
    written = dict(zip(vocabulary.answers, vocabulary.written, strict=True))
    assert written == {"sea": "The Sea", "2": "Two"}


def test_questions_without_an_answer_are_named() -> None:
    asked = ASKED + [Question("what?", (), f"q{number}") for number in range(8)]
    with pytest.raises(UserError) as caught:
        build(asked)
    assert "8 training questions have no answer: q0, q1, q2, q3, q4 and 3 more" in str(caught.value)
    assert caught.value.where == "data.train"


def test_no_question_at_all_is_an_error() -> None:
    with pytest.raises(UserError, match="no sample has a question"):
        build([])


def test_other_questions_are_covered_by_known_answers_or_refused() -> None:
    assert coverage_of(["blue", "tan"], ASKED, soft_scores, 0.0) == pytest.approx(
        (2 / 3 + 1 + 1) / (6 + 2 / 3)
    )
    with pytest.raises(UserError, match=r"answer 0\.0 % .* with other answers") as caught:
        coverage_of(["cat"], ASKED, soft_scores, 0.5)
    assert caught.value.where == "init"
    with pytest.raises(UserError, match="no answer: 9"):
        coverage_of(["red"], [Question("what?", (), 9)], soft_scores, 0.0)


def test_a_vocabulary_reads_back(tmp_path: Path) -> None:
    vocabulary = build(questions(["Größe"], ["cat"]))
    vocabulary.save(tmp_path / "answers.json")
    assert AnswerVocabulary.load(tmp_path / "answers.json") == vocabulary
    assert [path.name for path in tmp_path.iterdir()] == ["answers.json"]
    assert vocabulary.index == {"cat": 0, "größe": 1}


def test_training_questions_are_those_of_all_shards(tmp_path: Path) -> None:
    good: dict[str, Any] = {"questions": [ask("a?"), ask("b?", ["no"])]}
    broken = {"questions": [{"answers": ["x"]}]}
    write_shard(tmp_path / "0.tar", {"a": good, "b": {"captions": ["c"]}}, {})
    write_shard(tmp_path / "1.tar", {"c": broken, "d": {"questions": [ask("c?")]}}, {})
    source = open_folder(tmp_path)
    assert [one.text for one in training_questions([source])] == ["a?", "b?", "c?"]
    assert [one.id for one in training_questions([source, source])] == ["a/0", "a/1", "d/0"] * 2
