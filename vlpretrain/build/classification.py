"""Classes of pictures: fine-tuned, probed, or judged by neighbours or names."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlpretrain.build.class_names import check_same, labelled_set, read_classes, training_classes
from vlpretrain.build.data import open_sources, picture_settings
from vlpretrain.build.kit import TaskKit
from vlpretrain.build.model import build_model, model_state, named
from vlpretrain.build.overlap import overlap_of
from vlpretrain.config.task_schema import ClassificationConfig
from vlpretrain.data.held_out import HeldOut
from vlpretrain.data.labels import ClassList, LabelRecipe, is_number
from vlpretrain.errors import UserError
from vlpretrain.models.classifier import Classifier, ClassifierSpec
from vlpretrain.models.classifier_files import CLASSIFIER_FILES, load_classifier, save_classifier
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.padding import pad_ids
from vlpretrain.tasks.classification import ClassificationTask
from vlpretrain.tasks.classification_evaluator import ClassificationEvaluator, constant_accuracy
from vlpretrain.tasks.classification_scores import (
    NameScorer,
    NeighbourScorer,
    Scorer,
    score_by_head,
)
from vlpretrain.tasks.classification_set import LabelledSet
from vlpretrain.types import Evaluator


class ClassificationKit(TaskKit):
    """Labels, judged by top-1 and top-5.

    A run that starts from a model with a classifier of the same classes and kind goes on with its
    head; else the head is new.
    """

    @property
    def settings(self) -> ClassificationConfig:
        return self.config.task.classification

    @property
    def reads_head(self) -> bool:
        return self.settings.mode in ("finetune", "linear_probe")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        if not self.judging:
            return training_classes(self.config, self.sources, self.folder)
        if self.reads_head:
            return self._head_to_judge().classes
        if self.settings.classes:
            return self.settings.classes
        if self.settings.mode == "knn":
            return read_classes(self.sources, "data.train")
        return read_classes(open_sources(self.config.data.val, self.config.data), "data.val")

    def _head_to_judge(self) -> ClassifierSpec:
        """What the export's classifier is made of.

        Raises:
            UserError: it has none, or one of other classes or another kind.
        """
        spec = CLASSIFIER_FILES.read(Path(self.config.init))
        if spec is None:
            raise UserError(
                "the model has no classifier",
                where=f"init {self.config.init}",
                fix="fine-tune it for classes, or judge it by task.classification.mode: knn",
            )
        check_same(spec.classes, self.settings.classes, "the model was fine-tuned")
        wanted = self._spec(spec.classes)
        for name, there, asked in (
            ("mode", spec.probe, wanted.probe),
            ("pool", spec.pool, wanted.pool),
        ):
            if there != asked:
                raise _other_head(name, spec, self.settings)
        return spec

    @cached_property
    def pictures(self) -> LabelledSet | None:
        """The held-out ones; None where there are none."""
        if not self.config.data.val:
            return None
        return self._labelled(self.held_out, "data.val")

    def _labelled(self, held_out: HeldOut, where: str) -> LabelledSet:
        return labelled_set(held_out, self.classes, self.config.data.max_skipped, where)

    def recipe(self) -> LabelRecipe:
        return LabelRecipe(picture_settings(self.config), ClassList(self.classes))

    def task(self) -> ClassificationTask:
        model = build_model(self.config, self.tokeniser)
        torch.manual_seed(self.config.train.seed + 1)
        classifier = Classifier(self._spec(self.classes), model.vision.width)
        kept = self._kept_head(model)
        if kept is not None:
            classifier.load_state_dict(kept.state_dict())
        return ClassificationTask(model, classifier, self.settings.smoothing)

    def _spec(self, classes: tuple[str, ...]) -> ClassifierSpec:
        settings = self.settings
        probe = settings.mode == "linear_probe"
        return ClassifierSpec(classes, settings.pool, probe, settings.drop)

    def _kept_head(self, model: VLModel) -> Classifier | None:
        """That of the model which the run starts from, where it fits."""
        if not self.keeps_head:
            return None
        return load_classifier(Path(self.config.init), model.vision.width)

    @cached_property
    def keeps_head(self) -> bool:
        there = CLASSIFIER_FILES.read(Path(self.config.init)) if self.config.init else None
        wanted = self._spec(self.classes)
        return there is not None and replace(there, dropout=wanted.dropout) == wanted

    def evaluator(self) -> Evaluator | None:
        if self.pictures is None:
            return None
        return ClassificationEvaluator(
            pictures=self.pictures,
            classes=self.classes,
            scorer=self._scorer(),
            mode=self.settings.mode,
            batch=self.config.evaluation.batch,
            overlap=lambda: overlap_of(self.config),
        )

    def _scorer(self) -> Scorer:
        if self.reads_head:
            return score_by_head
        if self.settings.mode == "zero_shot":
            return self._name_scorer()
        return NeighbourScorer(
            training=self._labelled(
                HeldOut(self.sources, picture_settings(self.config)), "data.train"
            ),
            num_classes=len(self.classes),
            neighbours=self.settings.neighbours,
            temperature=self.settings.temperature,
            batch=self.config.evaluation.batch,
        )

    def _name_scorer(self) -> NameScorer:
        if all(is_number(name) for name in self.classes):
            raise UserError(
                f"the classes are numbers ({named(self.classes)}): there is no name to read",
                where="task.classification.classes",
                fix="their names, in the order of the numbers",
            )
        texts = [
            template.replace("{}", name.replace("_", " "))
            for name in self.classes
            for template in self.settings.templates
        ]
        encoded = self.tokeniser.encode(texts, self.config.data.max_tokens)
        text_PT, valid_PT = pad_ids([text.ids for text in encoded], self.tokeniser.pad_id)
        return NameScorer(text_PT, valid_PT, len(self.classes), self.config.evaluation.batch)

    def chance(self, task: nn.Module, batch: Any) -> dict[str, float]:
        """Of guessing evenly in training, of the most frequent class at an evaluation."""
        chance = 1 / len(self.classes)
        levels = {"loss/classification": -math.log(chance), "classification/accuracy": chance}
        if self.pictures is not None:
            num_C = torch.bincount(self.pictures.label_N, minlength=len(self.classes))
            levels["val/top1"] = constant_accuracy(num_C, 1)
        return levels

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"classes": f"{len(self.classes):,}: {named(self.classes)}"}
        facts["judged by" if self.judging else "training"] = self.settings.mode
        if self.keeps_head and not self.judging:
            facts["head"] = f"that of {self.config.init}"
        return facts

    def save(self, task: nn.Module, state_dict: dict[str, Tensor], folder: Path) -> None:
        super().save(task, state_dict, folder)
        assert isinstance(task, ClassificationTask)
        save_classifier(task.classifier, folder, model_state(state_dict, "classifier."))


def _other_head(name: str, spec: ClassifierSpec, settings: ClassificationConfig) -> UserError:
    there = {"mode": "linear_probe" if spec.probe else "finetune", "pool": spec.pool}[name]
    return UserError(
        f"the model's classifier was trained with {there}, the configuration says "
        f"{getattr(settings, name)}",
        where=f"task.classification.{name}",
        fix=f"--task.classification.{name} {there}",
    )
