"""How well questions are answered, beside what answers well without looking.

Shapes: Q questions, A answers of the list, K best of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlpretrain import distributed
from vlpretrain.errors import UserError
from vlpretrain.metrics.interval import accuracy_with_interval, grouped_accuracy
from vlpretrain.metrics.language_prior import Asked, score_priors
from vlpretrain.metrics.vqa import answer_type_of, question_type_of, results_record, vqa_accuracy
from vlpretrain.models.answer_search import cut_at_end
from vlpretrain.models.answerer import QuestionStates
from vlpretrain.models.inputs import TextReader
from vlpretrain.tasks.explain import word_maps
from vlpretrain.tasks.explain_picture import Explained, write_words
from vlpretrain.tasks.judges import answer_judge
from vlpretrain.tasks.vqa import VqaTask
from vlpretrain.tasks.vqa_examples import DrawWords, write_examples
from vlpretrain.tasks.vqa_set import AskedQuestion, QuestionSet
from vlpretrain.types import QuestionBatch, Skip

SHOWN = 5
RESULTS_FILE = "vqa_results.json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said to one question: the best first, with scores for showing."""

    text: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class VqaEvaluator:
    """types.Evaluator of a VqaTask; the work is divided over ranks, the figures are equal.

    Args:
        training: questions that the baselines learn from, called at the first evaluation; none
            where the training data is not at hand.
        vocabulary: size and coverage, for the record.
        writes: a decoder's own answers are judged; else the likeliest of its list.
        read_text: token ids to words.
        overlap: whether the questions or their pictures were trained on.
        reader: texts to tokens and words, to show where the model looked; None: that is left out.
    """

    questions: QuestionSet
    batch: int
    training: Callable[[], Sequence[Asked]]
    read_text: Callable[[Sequence[int]], str]
    vocabulary: dict[str, Any] = field(default_factory=dict)
    writes: bool = True
    beams: int = 1
    rank_first: int = 128
    overlap: Callable[[], dict[str, Any] | None] = lambda: None
    reader: TextReader | None = None

    def __call__(self, task: VqaTask, folder: Path) -> dict[str, float]:
        """Figures by name; the main rank writes vqa.json, its pictures and the results file.

        Raises:
            UserError: there is no held-out question.
        """
        if not self.questions.questions:
            raise UserError(
                "no held-out question to evaluate on",
                where="data.val",
                fix="shards made by `data_tools convert` from questions",
            )
        training = task.training
        task.eval()
        try:
            answers = self._answer_all(task)
        finally:
            task.train(training)
        record, figures = self._judge(answers)
        if distributed.is_main():
            _write_json(folder / RESULTS_FILE, self._results(answers))
            record["examples"] = write_examples(
                self.questions, answers, self._scores(answers), folder, self._drawer(task)
            )
            record["overlap"] = self._overlap
            _write_json(folder / "vqa.json", record)
        return figures

    @cached_property
    def _overlap(self) -> dict[str, Any] | None:
        return self.overlap()

    @torch.no_grad()
    def _answer_all(self, task: VqaTask) -> list[Answer]:
        device = next(task.parameters()).device
        said: dict[int, Answer] = {}
        share = self.questions.batches(self.batch, distributed.rank(), distributed.world_size())
        for rows, batch in share:
            answers = self._answer(task, batch.to(device))
            said.update(zip(rows, answers, strict=False))
        for part in distributed.gather_objects(said):
            said.update(part)
        return [said[row] for row in range(len(self.questions.questions))]

    def _answer(self, task: VqaTask, batch: QuestionBatch) -> list[Answer]:
        states = task(batch, evaluate=True)
        if task.answerer.decoder is not None and self.writes:
            return self._written(task, states)
        score_QA = task.answerer.answer_scores(states, self.rank_first)
        best = score_QA.exp().topk(min(SHOWN, score_QA.shape[1]), dim=1)
        listed = task.answerer.spec.answers
        tops = [
            tuple((listed[index], score) for index, score in zip(indexes, scores, strict=True))
            for indexes, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return [Answer(top[0][0], top) for top in tops]

    def _written(self, task: VqaTask, states: QuestionStates) -> list[Answer]:
        written = task.answerer.write(states, num_beams=self.beams)
        special = task.answerer.spec.special
        texts = [
            [self.read_text(cut_at_end(ids, special)) for ids in beams]
            for beams in written.text_QKL.tolist()
        ]
        scores = written.log_likelihood_QK.exp().tolist()
        tops = [tuple(zip(*pair, strict=True)) for pair in zip(texts, scores, strict=True)]
        return [Answer(top[0][0], top[:SHOWN]) for top in tops]

    def _scores(self, answers: Sequence[Answer]) -> list[float | None]:
        """The official accuracy of each answer; None where nobody says what is right."""
        return [
            vqa_accuracy(answer.text, question.answers) if question.answers else None
            for question, answer in zip(self.questions.questions, answers, strict=True)
        ]

    def _judge(self, answers: Sequence[Answer]) -> tuple[dict[str, Any], dict[str, float]]:
        """The content of vqa.json, and the figures for the log."""
        asked = self._answered
        record: dict[str, Any] = {
            "num_questions": len(answers),
            "vocabulary": self.vocabulary or None,
            "results_file": RESULTS_FILE,
            "skipped": [asdict(skip) for skip in self._skips()],
        }
        if not asked:
            return record, {}
        score_Q = [score for score in self._scores(answers) if score is not None]
        samples = [question.sample for question in asked]
        record |= accuracy_with_interval(score_Q, samples)
        record["by_question_type"] = grouped_accuracy(
            score_Q, [one.type or question_type_of(one.text) for one in asked], samples
        )
        record["by_answer_type"] = grouped_accuracy(
            score_Q, [one.answer_type or answer_type_of(one.answers[0]) for one in asked], samples
        )
        record["consistency"] = consistency(asked, score_Q)
        record["baselines"] = self._baselines
        return record, _figures(record)

    @cached_property
    def _answered(self) -> list[AskedQuestion]:
        """The questions that somebody says the answer of."""
        return [question for question in self.questions.questions if question.answers]

    @cached_property
    def _baselines(self) -> dict[str, Any]:
        training, asked = self.training(), self._answered
        if not training:
            return {}
        samples = [question.sample for question in asked]
        priors = score_priors(training, [Asked(one.text, one.answers) for one in asked])
        return {
            "question_only": accuracy_with_interval(priors.question_only, samples),
            "most_frequent": accuracy_with_interval(priors.most_frequent, samples),
        }

    def _drawer(self, task: VqaTask) -> DrawWords | None:
        """None where words don't look at pictures, or parameters are cut over ranks (ZeRO-3)."""
        reader = self.reader
        sharded = any(hasattr(parameter, "ds_id") for parameter in task.parameters())
        if reader is None or sharded or task.model.fusion.spec.kind == "concat":
            return None
        judge = answer_judge(task.answerer, reader)
        task.model.reader = reader

        def draw(pixels_PCHW: Tensor, text: str, folder: Path, name: str) -> list[dict[str, str]]:
            try:
                maps = word_maps(task.model, pixels_PCHW, text, judge)
            except UserError:  # a fusion of one layer, a question without words: nothing to show
                return []
            return write_words(Explained(pixels_PCHW, maps), folder, name)

        return draw

    def _skips(self) -> list[Skip]:
        """What no rank could read; a black picture stands in."""
        parts = distributed.gather_objects(list(self.questions.skips))
        return list(dict.fromkeys(skip for part in parts for skip in part))

    def _results(self, answers: Sequence[Answer]) -> list[Any]:
        """What the official servers take."""
        return [
            results_record(question.id, answer.text)
            for question, answer in zip(self.questions.questions, answers, strict=True)
        ]


def consistency(
    asked: Sequence[AskedQuestion], score_Q: Sequence[float]
) -> dict[str, float] | None:
    """The share of groups all of whose questions are right (Suhr et al. 2019); None without."""
    right: dict[str, bool] = {}
    for question, score in zip(asked, score_Q, strict=True):
        if question.group:
            right[question.group] = right.get(question.group, True) and score >= 1
    return {"n": len(right), "value": sum(right.values()) / len(right)} if right else None


def _figures(record: dict[str, Any]) -> dict[str, float]:
    figures = {"val/vqa_accuracy": record["accuracy"]}
    for name, found in record["baselines"].items():
        figures[f"val/chance_{name}_accuracy"] = found["accuracy"]
    if record["consistency"]:
        figures["val/vqa_consistency"] = record["consistency"]["value"]
    return figures


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)
