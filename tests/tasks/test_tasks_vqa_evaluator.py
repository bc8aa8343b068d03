"""Figures of a model whose answers are given, and the questions divided over ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vlpretrain.errors import UserError
from vlpretrain.metrics.language_prior import Asked
from vlpretrain.tasks.vqa_evaluator import Answer, VqaEvaluator, consistency
from vlpretrain.tasks.vqa_examples import choose_examples
from vlpretrain.tasks.vqa_set import AskedQuestion, QuestionSet
from vlpretrain.types import QuestionBatch, Skip

ANSWERS = ("yes", "no", "two", "The Sea", "red", "blue")


class Scripted(nn.Module):
    """A VqaTask that says `said[question id]`; the second answer of the list comes next."""

    def __init__(self, said: Mapping[str, str]) -> None:
        super().__init__()
        self.device = nn.Parameter(torch.zeros(()))
        self.said = said
        self.pictures: list[int] = []
        self.was_training: list[bool] = []
        self.answerer = SimpleNamespace(
            decoder=None, spec=SimpleNamespace(answers=ANSWERS), answer_scores=self._scores
        )

    def forward(self, batch: QuestionBatch, evaluate: bool = False) -> QuestionBatch:
        assert evaluate
        self.was_training.append(self.training)
        self.pictures.append(len(batch.pixels_ICHW))
        return batch

    def _scores(self, batch: QuestionBatch, k_first: int) -> Tensor:
        score_QA = torch.full((len(batch.keys), len(ANSWERS)), 0.1)
        score_QA[:, 1] = 0.2
        for row, key in enumerate(batch.keys):
            score_QA[row, ANSWERS.index(self.said[key])] = 0.7
        return score_QA.log()


def asked(number: int, answers: Sequence[str], sample: int, **more: Any) -> AskedQuestion:
    return AskedQuestion(f"is it number {number}?", tuple(answers), number, sample, **more)


QUESTIONS = (
    asked(1, ["yes"] * 9 + ["no"], 0, type="is it", answer_type="yes/no", group="a"),
    asked(2, ["no"], 0, group="a"),
    asked(3, ["two"], 2, group="b"),
    asked(4, ["The Sea", "The Sea"], 3, answer_type="other"),
    asked(5, ["red", "red", "blue", "blue", "blue"], 3, answer_type="other"),
)
SAID = {"1": "yes", "2": "yes", "3": "two", "4": "The Sea", "5": "red"}
# The last: two of five agree, so of the sets of four two have one match and three have two.
SCORES = [1.0, 0.0, 1.0, 1.0, (2 * 1 / 3 + 3 * 2 / 3) / 5]
TRAINING = [Asked("is it number 1?", ["yes"]), Asked("what?", ["no"]), Asked("who?", ["no"])]


def question_set(
    questions: Sequence[AskedQuestion] = QUESTIONS, num_pictures: int = 1
) -> QuestionSet:
    """Picture p of sample s is of the grey 10 s + p."""

    def load(rows: Sequence[int]) -> Tensor:
        greys = [10 * row + number for row in rows for number in range(num_pictures)]
        return torch.tensor(greys, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)

    token_ids = tuple(tuple(range(2, 4 + row % 3)) for row in range(len(questions)))
    return QuestionSet(tuple(questions), token_ids, load, num_pictures, pad_id=0)


def evaluator(questions: QuestionSet, **more: Any) -> VqaEvaluator:
    return VqaEvaluator(questions, 2, lambda: TRAINING, str, **more)


def judge(folder: Path, judge: VqaEvaluator, said: Mapping[str, str] = SAID) -> dict[str, Any]:
    """The content of vqa.json."""
    judge(Scripted(said), folder)  # type: ignore[arg-type]
    return json.loads((folder / "vqa.json").read_text())


# --- figures --------------------------------------------------------------------------------------


def test_figures_are_those_of_the_answers(tmp_path: Path) -> None:
    task = Scripted(SAID)
    figures = evaluator(question_set())(task, tmp_path)  # type: ignore[arg-type]
    record = json.loads((tmp_path / "vqa.json").read_text())
    assert record["num_questions"] == 5
    assert record["accuracy"] == figures["val/vqa_accuracy"] == pytest.approx(sum(SCORES) / 5)
    assert record["interval"][0] <= record["accuracy"] <= record["interval"][1]
    by_type = {row["name"]: (row["n"], row["accuracy"]) for row in record["by_answer_type"]}
    assert by_type == {
        "yes/no": (2, 0.5),
        "number": (1, 1.0),
        "other": (2, pytest.approx((1 + SCORES[4]) / 2)),
    }
    # A question without a type is of its first two words.
    assert {row["name"]: row["n"] for row in record["by_question_type"]} == {"is it": 5}
    assert record["consistency"] == {"n": 2, "value": 0.5}
    assert figures["val/vqa_consistency"] == 0.5
    assert record["skipped"] == []
    assert task.was_training == [False] * 2
    assert task.training


def test_each_picture_is_loaded_once_for_all_its_questions(tmp_path: Path) -> None:
    task = Scripted(SAID)
    evaluator(question_set())(task, tmp_path)  # type: ignore[arg-type]
    assert task.pictures == [2, 1]


def test_baselines_never_look_and_are_found_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def training() -> list[Asked]:
        calls.append(1)
        return TRAINING

    both = replace(evaluator(question_set()), training=training)
    for said in (SAID, dict.fromkeys(SAID, "red")):
        record = judge(tmp_path, both, said)
        # "no" to all but the question that training knows; "no" to all.
        assert record["baselines"]["most_frequent"]["accuracy"] == pytest.approx((0.3 + 1) / 5)
        assert record["baselines"]["question_only"]["accuracy"] == pytest.approx((1 + 0) / 5)
    assert calls == [1]
    without = replace(evaluator(question_set()), training=list)
    assert judge(tmp_path, without)["baselines"] == {}


def test_overlap_is_looked_for_once(tmp_path: Path) -> None:
    calls: list[int] = []
    record = {"checked": True, "pictures": 3}
    look = evaluator(question_set(), overlap=lambda: calls.append(1) or record)
    assert [judge(tmp_path, look)["overlap"] for _ in range(2)] == [record] * 2
    assert calls == [1]


def test_every_answer_stands_in_the_results_file(tmp_path: Path) -> None:
    record = judge(tmp_path, evaluator(question_set()))
    results = json.loads((tmp_path / record["results_file"]).read_text())
    assert results == [{"question_id": int(key), "answer": answer} for key, answer in SAID.items()]


def test_a_test_set_has_results_and_no_accuracy(tmp_path: Path) -> None:
    secret = [replace(question, answers=()) for question in QUESTIONS]
    figures = evaluator(question_set(secret))(Scripted(SAID), tmp_path)  # type: ignore[arg-type]
    record = json.loads((tmp_path / "vqa.json").read_text())
    assert figures == {}
    assert "accuracy" not in record
    assert record["num_questions"] == len(json.loads((tmp_path / "vqa_results.json").read_text()))
    assert {example["accuracy"] for example in record["examples"]} == {None}


def test_questions_without_answers_beside_others_count_for_nothing(tmp_path: Path) -> None:
    mixed = [replace(QUESTIONS[0], answers=()), *QUESTIONS[1:3]]
    record = judge(tmp_path, evaluator(question_set(mixed)))
    assert record["accuracy"] == 0.5
    assert record["num_questions"] == 3
    assert sum(row["n"] for row in record["by_answer_type"]) == 2


def test_no_question_is_a_mistake_that_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no held-out question") as caught:
        evaluator(question_set(()))(Scripted(SAID), tmp_path)  # type: ignore[arg-type]
    assert caught.value.where == "data.val"
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_seen_is_counted_and_named(tmp_path: Path) -> None:
    skips: list[Skip] = []
    questions = question_set()

    def load(rows: Sequence[int]) -> Tensor:
        skips.extend([Skip("a.tar", "k2", "no picture")] * (2 in rows))
        return questions.load_pixels(rows)

    blind = replace(questions, load_pixels=load, skips=skips)
    record = judge(tmp_path, evaluator(blind))
    assert record["skipped"] == [{"shard": "a.tar", "key": "k2", "reason": "no picture"}]
    assert record["num_questions"] == 5


def test_consistency_needs_every_question_of_a_group() -> None:
    assert consistency(QUESTIONS, [1, 1, 0.9, 1, 1]) == {"n": 2, "value": 0.5}
    assert consistency([QUESTIONS[3]], [1]) is None


# --- examples -------------------------------------------------------------------------------------


def test_examples_show_pictures_answers_and_scores(tmp_path: Path) -> None:
    record = judge(tmp_path, evaluator(question_set()))
    wrong, *right = record["examples"]
    assert (wrong["question"], wrong["prediction"], wrong["accuracy"]) == (
        "is it number 2?",
        "yes",
        0.0,
    )
    assert wrong["answers"] == ["no"]
    assert [one["answer"] for one in wrong["top"][:2]] == ["yes", "no"]
    assert [one["score"] for one in wrong["top"][:2]] == pytest.approx([0.7, 0.2])
    assert len(wrong["top"]) == 5
    assert len(right) == 2  # of the samples that are not shown yet, each once
    for example in record["examples"]:
        assert Image.open(tmp_path / example["image"]).size == (8, 8)


def test_examples_keep_how_many_gave_an_answer(tmp_path: Path) -> None:
    record = judge(tmp_path, evaluator(question_set(QUESTIONS[:1])))
    assert record["examples"][0]["answers"] == ["yes"] * 9 + ["no"]


def test_half_of_the_examples_are_wrong_where_there_are_so_many() -> None:
    questions = question_set([asked(number, ["yes"], number) for number in range(300)])
    scores = [float(number % 3 == 0) for number in range(300)]
    chosen = choose_examples(questions, scores, wanted=12)
    assert sum(scores[row] for row in chosen) == 6
    assert len(set(chosen)) == 12
    assert max(chosen) > 20  # not the first alone
    assert [scores[row] for row in choose_examples(questions, [1.0] * 300, wanted=4)] != []


def test_two_pictures_are_both_shown(tmp_path: Path) -> None:
    record = judge(tmp_path, evaluator(question_set(QUESTIONS[:3], num_pictures=2)))
    first, second = record["examples"][0]["image"]
    assert Image.open(tmp_path / first).getpixel((0, 0)) == (0, 0, 0)
    assert Image.open(tmp_path / second).getpixel((0, 0)) == (1, 1, 1)


# --- the work divided -----------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 10])
def test_ranks_share_all_questions_in_equally_many_batches(world_size: int, size: int) -> None:
    questions = question_set()
    shares = [list(questions.batches(size, rank, world_size)) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    rows = [row for share in shares for part, _ in share for row in part]
    assert sorted(rows) == list(range(5))
    for share in shares:
        for part, batch in share:
            assert len(batch.keys) > 0
            assert not part or batch.keys == tuple(str(QUESTIONS[row].id) for row in part)


def test_a_batch_is_the_same_at_any_number_of_ranks() -> None:
    questions = question_set()
    (_, alone), (_, other) = questions.batches(2, 0, 1)
    ((_, first),) = questions.batches(2, 0, 2)
    ((_, second),) = questions.batches(2, 1, 2)
    for expected, found in ((alone, first), (other, second)):
        assert torch.equal(expected.text_RT, found.text_RT)
        assert torch.equal(expected.pixels_ICHW, found.pixels_ICHW)
        assert torch.equal(expected.image_row_QP, found.image_row_QP)


def test_a_batch_names_each_questions_text_and_pictures() -> None:
    ((rows, batch),) = question_set(num_pictures=2).batches(9, 0, 1)
    assert rows == [0, 1, 2, 3, 4]
    assert batch.pixels_ICHW[:, 0, 0, 0].tolist() == [0, 1, 20, 21, 30, 31]
    assert batch.image_row_QP.tolist() == [[0, 1], [0, 1], [2, 3], [4, 5], [4, 5]]
    assert batch.text_row_Q.tolist() == [0, 1, 2, 0, 1]  # equal texts are read once
    assert batch.text_RT.tolist() == [[2, 3, 0, 0], [2, 3, 4, 0], [2, 3, 4, 5]]
    assert batch.text_valid_RT.sum(1).tolist() == [2, 3, 4]


def test_an_answer_that_wins_by_its_score_is_given(tmp_path: Path) -> None:
    answers = evaluator(question_set())._answer_all(Scripted(SAID))  # type: ignore[arg-type]
    assert [answer.text for answer in answers] == list(SAID.values())
    assert isinstance(answers[0], Answer)
