"""Visual question answering, and sentences that are true or false of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlpretrain.build.data import picture_settings
from vlpretrain.build.kit import TaskKit
from vlpretrain.build.model import build_model, model_state
from vlpretrain.build.overlap import overlap_of
from vlpretrain.build.resumed import kept_file
from vlpretrain.config.task_schema import VqaConfig
from vlpretrain.data.answers import AnswerVocabulary, build_vocabulary, training_questions
from vlpretrain.data.held_out import HeldOut
from vlpretrain.data.questions import Question, QuestionRecipe, QuestionSettings, read_questions
from vlpretrain.data.sample import SampleError
from vlpretrain.distributed import is_main
from vlpretrain.errors import UserError
from vlpretrain.metrics.language_prior import Asked
from vlpretrain.metrics.vqa import normalise_answer, soft_scores, written_forms
from vlpretrain.models.answer_decoder import SpecialIds
from vlpretrain.models.answerer import Answerer, AnswererSpec
from vlpretrain.models.answerer_files import load_answerer, save_answerer
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.vqa import VqaTask
from vlpretrain.tasks.vqa_evaluator import VqaEvaluator
from vlpretrain.tasks.vqa_set import AskedQuestion, QuestionSet
from vlpretrain.types import Evaluator

VOCABULARY_FILE = "answers.json"


class VqaKit(TaskKit):
    """Questions, judged by the official accuracy.

    A run that starts from a model that was fine-tuned for questions keeps its answers and its head;
    else the vocabulary is made of the training questions and kept with the run.
    """

    @property
    def vqa(self) -> VqaConfig:
        return self.config.task.vqa

    @cached_property
    def kept_answerer(self) -> Answerer | None:
        """That of the model that the run starts from."""
        if not self.config.init:
            return None
        model = build_model(self.config, self.tokeniser)
        return load_answerer(Path(self.config.init), model.fusion.width, model.text.vocab_size)

    @cached_property
    def questions(self) -> list[Question]:
        """Of the training sources."""
        return list(training_questions(self.sources))

    @cached_property
    def vocabulary(self) -> AnswerVocabulary:
        kept = kept_file(self.config, self.folder, VOCABULARY_FILE)
        vocabulary = AnswerVocabulary.load(kept) if kept is not None else self._new_vocabulary()
        if is_main():
            vocabulary.save(self.folder / VOCABULARY_FILE)
        return vocabulary

    def _new_vocabulary(self) -> AnswerVocabulary:
        return build_vocabulary(
            self.questions,
            soft_scores,
            written_forms,
            top=self.vqa.top_answers,
            min_count=self.vqa.min_count,
            min_coverage=0.0 if self.vqa.answer_with == "decode" else self.vqa.min_coverage,
        )

    @property
    def answers(self) -> tuple[str, ...]:
        """As they are written."""
        kept = self.kept_answerer
        return kept.spec.answers if kept is not None else self.vocabulary.written

    def recipe(self) -> QuestionRecipe:
        index = {normalise_answer(answer): place for place, answer in enumerate(self.answers)}
        decodes = self.vqa.answer_with == "decode"
        return QuestionRecipe(
            self.tokeniser,
            QuestionSettings(
                picture=picture_settings(self.config),
                num_pictures=self.vqa.pictures,
                max_tokens=self.config.data.max_tokens,
                per_picture=self.vqa.per_picture,
                max_answer_tokens=self.vqa.max_answer_tokens if decodes else 0,
                blind=self.vqa.blind,
            ),
            index,
            soft_scores,
            normalise_answer,
        )

    def task(self) -> VqaTask:
        model = build_model(self.config, self.tokeniser)
        answerer = self.kept_answerer
        if answerer is None:
            torch.manual_seed(self.config.train.seed + 1)
            answerer = Answerer(self._spec(model), model.fusion.width, model.text.vocab_size)
        self._check(answerer)
        return VqaTask(model, answerer, self.vqa.loss)

    def _check(self, answerer: Answerer) -> None:
        spec = answerer.spec
        for name, there, wanted in (
            ("pictures", spec.num_pictures, self.vqa.pictures),
            ("answer_with", spec.kind, self.vqa.answer_with),
        ):
            if there != wanted:
                raise UserError(
                    f"the model was fine-tuned with {there}, the configuration says {wanted}",
                    where=f"task.vqa.{name}",
                    fix=f"task.vqa.{name}: {there}, or a pretrained model as init",
                )

    def _spec(self, model: VLModel) -> AnswererSpec:
        vqa = self.vqa
        if vqa.answer_with == "classify":
            return AnswererSpec(
                "classify",
                vqa.pictures,
                self.answers,
                dropout=vqa.dropout,
                exclusive=vqa.loss == "cross_entropy",
            )
        special = self._special_ids()
        encoded = self.tokeniser.encode(self.answers, vqa.max_answer_tokens)
        return AnswererSpec(
            kind="decode",
            num_pictures=vqa.pictures,
            answers=self.answers,
            dropout=vqa.dropout,
            depth=vqa.decoder_depth,
            heads=model.fusion.spec.heads,
            max_answer_tokens=vqa.max_answer_tokens,
            start_id=special.start,
            end_id=special.end,
            pad_id=special.pad,
            answer_tokens=tuple(tuple(text.ids) for text in encoded),
        )

    def _special_ids(self) -> SpecialIds:
        """An empty text is its first and its last token."""
        (empty,) = self.tokeniser.encode([""])
        if len(empty.ids) != 2:
            raise UserError(
                "answers can't be written: this tokenizer has no first and last token of a text",
                where="task.vqa.answer_with",
                fix="classify, or a BERT-like tokenizer",
            )
        return SpecialIds(empty.ids[0], empty.ids[1], self.tokeniser.pad_id)

    def evaluator(self) -> Evaluator | None:
        if not self.config.data.val:
            return None
        return VqaEvaluator(
            questions=question_set(self.held_out, self),
            batch=self.config.evaluation.batch,
            training=self._asked,
            read_text=self.tokeniser.decode,
            vocabulary=self._vocabulary_facts(),
            writes=self.vqa.evaluate == "write",
            beams=self.vqa.beams,
            rank_first=self.vqa.rank_first,
            overlap=lambda: overlap_of(self.config),
            reader=self.reader(),
        )

    def _asked(self) -> Sequence[Asked]:
        return [Asked(one.text, one.answers) for one in self.questions if one.answers]

    def _vocabulary_facts(self) -> dict[str, Any]:
        if self.kept_answerer is not None:
            return {"size": len(self.answers), "coverage": None}
        return {"size": len(self.answers), "coverage": self.vocabulary.coverage}

    def chance(self, task: nn.Module, batch: Any) -> dict[str, float]:
        """The accuracy of always giving the most frequent answer."""
        if self.kept_answerer is not None or not self.vocabulary.answers:
            return {}
        best = self.vocabulary.answers[0]
        scores = [soft_scores(one.answers).get(best, 0.0) for one in self.questions if one.answers]
        return {"vqa/accuracy": sum(scores) / len(scores)}

    def facts(self) -> dict[str, Any]:
        facts = self._vocabulary_facts()
        covered = "" if facts["coverage"] is None else f", {100 * facts['coverage']:.1f} % covered"
        return {"answers": f"{facts['size']:,}{covered}"}

    def save(self, task: nn.Module, state_dict: dict[str, Tensor], folder: Path) -> None:
        super().save(task, state_dict, folder)
        assert isinstance(task, VqaTask)
        save_answerer(task.answerer, folder, model_state(state_dict, "answerer."))


def question_set(held_out: HeldOut, kit: VqaKit) -> QuestionSet:
    """The questions of held-out samples; samples without any are left out."""
    questions: list[AskedQuestion] = []
    for row, sample in enumerate(held_out.samples):
        try:
            read = read_questions(sample)
        except SampleError:
            continue
        questions += [
            AskedQuestion(one.text, one.answers, one.id, row, one.type, one.answer_type, one.group)
            for one in read
        ]
    encoded = kit.tokeniser.encode([one.text for one in questions], kit.config.data.max_tokens)
    pictures, blind = kit.vqa.pictures, kit.vqa.blind

    def load_pixels(rows: Sequence[int]) -> Tensor:
        pixels = torch.stack([held_out.pixels(rows, number) for number in range(pictures)], dim=1)
        return pixels.flatten(0, 1) * (not blind)

    return QuestionSet(
        questions=tuple(questions),
        token_ids=tuple(tuple(text.ids) for text in encoded),
        load_pixels=load_pixels,
        num_pictures=pictures,
        num_samples=len(held_out),
        pad_id=kit.tokeniser.pad_id,
    )
