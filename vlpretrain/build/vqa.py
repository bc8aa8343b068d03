"""Visual question answering, and sentences that are true or false of pictures."""

from __future__ import annotations

from collections import defaultdict
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
from vlpretrain.build.resumed import resumed_run
from vlpretrain.config.task_schema import VqaConfig
from vlpretrain.data.answers import (
    AnswerVocabulary,
    build_vocabulary,
    coverage_of,
    training_questions,
)
from vlpretrain.data.held_out import HeldOut
from vlpretrain.data.questions import Question, QuestionRecipe, QuestionSettings, read_questions
from vlpretrain.data.sample import SampleError
from vlpretrain.distributed import is_main
from vlpretrain.errors import UserError
from vlpretrain.metrics.language_prior import Asked
from vlpretrain.metrics.vqa import normalise_answer, soft_scores, written_forms
from vlpretrain.models.answer_decoder import SpecialIds
from vlpretrain.models.answerer import Answerer, AnswererSpec
from vlpretrain.models.answerer_files import ANSWERER_FILES, load_answerer, save_answerer
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.vqa import VqaTask
from vlpretrain.tasks.vqa_evaluator import VqaEvaluator
from vlpretrain.tasks.vqa_set import AskedQuestion, QuestionSet
from vlpretrain.types import Evaluator, Skip

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
    def kept(self) -> AnswererSpec | None:
        """What the answerer of the model that the run starts from is made of, if it has one.

        Raises:
            UserError: the configuration asks for another kind, or there is none to judge.
        """
        spec = ANSWERER_FILES.read(Path(self.config.init)) if self.config.init else None
        if spec is not None:
            self._check(spec)
        elif self.judging:
            raise UserError(
                "the model answers no questions: there is no answerer.json",
                where=f"init {self.config.init}",
                fix=f"fine-tune it first: vlpretrain finetune CONFIG --init {self.config.init}",
            )
        return spec

    @cached_property
    def questions(self) -> list[Question]:
        """Of the training sources."""
        return list(training_questions(self.sources))

    @cached_property
    def vocabulary(self) -> AnswerVocabulary:
        """Of the model that the run starts from, else of the run that is gone on with, else made of
        the training questions. Rank 0 leaves it in the run's folder, where the others find it."""
        if self.kept is not None:
            return self._known(self.kept.answers)
        owner = resumed_run(self.config, self.folder) if is_main() else self.folder
        if owner is not None and (owner / VOCABULARY_FILE).is_file():
            vocabulary = AnswerVocabulary.load(owner / VOCABULARY_FILE)
        else:
            vocabulary = self._made()
        if is_main():
            vocabulary.save(self.folder / VOCABULARY_FILE)
        return vocabulary

    def _made(self) -> AnswerVocabulary:
        return build_vocabulary(
            self.questions,
            soft_scores,
            written_forms,
            top=self.vqa.top_answers,
            min_count=self.vqa.min_count,
            min_coverage=self.min_coverage,
        )

    def _known(self, written: tuple[str, ...]) -> AnswerVocabulary:
        """Where nothing is trained, as much as is known."""
        answers = tuple(normalise_answer(answer) for answer in written)
        questions = [one for one in self.questions if one.answers or not self.judging]
        coverage = None
        if questions or not self.judging:
            least = 0.0 if self.judging else self.min_coverage
            coverage = coverage_of(answers, questions, soft_scores, least)
        return AnswerVocabulary(answers, written, coverage, len(questions))

    @property
    def min_coverage(self) -> float:
        """A decoder writes what its list lacks."""
        return 0.0 if self.vqa.answer_with == "decode" else self.vqa.min_coverage

    def recipe(self) -> QuestionRecipe:
        vocabulary = self.vocabulary
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
            vocabulary.index,
            soft_scores,
            normalise_answer,
            dict(zip(vocabulary.answers, vocabulary.written, strict=True)),
        )

    def task(self) -> VqaTask:
        model = build_model(self.config, self.tokeniser)
        width, vocab_size = model.fusion.width, model.text.vocab_size
        torch.manual_seed(self.config.train.seed + 1)
        answerer = load_answerer(Path(self.config.init), width, vocab_size) if self.kept else None
        if answerer is None:
            answerer = Answerer(self._spec(model), width, vocab_size)
        return VqaTask(model, answerer, self.vqa.loss)

    def _check(self, spec: AnswererSpec) -> None:
        for name, there, wanted in (
            ("pictures", spec.num_pictures, self.vqa.pictures),
            ("answer_with", spec.kind, self.vqa.answer_with),
        ):
            if there != wanted:
                raise UserError(
                    f"the model was fine-tuned with {there}, the configuration says {wanted}",
                    where=f"task.vqa.{name}",
                    fix=f"task.vqa.{name}: {there}"
                    + ("" if self.judging else ", or a pretrained model as init"),
                )

    def _spec(self, model: VLModel) -> AnswererSpec:
        vqa = self.vqa
        if vqa.answer_with == "classify":
            return AnswererSpec(
                "classify",
                vqa.pictures,
                self.vocabulary.written,
                dropout=vqa.dropout,
                exclusive=vqa.loss == "cross_entropy",
            )
        special, written = self._special_ids(), self.vocabulary.written
        encoded = self.tokeniser.encode(written, vqa.max_answer_tokens)
        return AnswererSpec(
            kind="decode",
            num_pictures=vqa.pictures,
            answers=written,
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
        return {"size": len(self.vocabulary.answers), "coverage": self.vocabulary.coverage}

    def chance(self, task: nn.Module, batch: Any) -> dict[str, float]:
        """The accuracy of giving one answer to all questions: the one that is right most often."""
        answered = [question.answers for question in self.questions if question.answers]
        totals: defaultdict[str, float] = defaultdict(float)
        for answers in answered:
            for answer, score in soft_scores(answers).items():
                totals[answer] += score
        best = max((totals[answer] for answer in self.vocabulary.answers), default=0.0)
        return {"vqa/accuracy": best / len(answered)}

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
        except SampleError as error:
            held_out.skips.append(Skip(sample.shard, sample.key, str(error)))
            continue
        questions += [
            AskedQuestion(one.text, one.answers, one.id, row, one.type, one.answer_type, one.group)
            for one in read
        ]
    encoded = kit.tokeniser.encode([one.text for one in questions], kit.config.data.max_tokens)
    pictures, side = kit.vqa.pictures, kit.config.data.image_size

    def load_pixels(rows: Sequence[int]) -> Tensor:
        if kit.vqa.blind:
            return torch.zeros(len(rows) * pictures, 3, side, side, dtype=torch.uint8)
        pixels = torch.stack([held_out.pixels(rows, number) for number in range(pictures)], dim=1)
        return pixels.flatten(0, 1)

    return QuestionSet(
        questions=tuple(questions),
        token_ids=tuple(tuple(text.ids) for text in encoded),
        load_pixels=load_pixels,
        num_pictures=pictures,
        pad_id=kit.tokeniser.pad_id,
        skips=held_out.skips,
    )
