"""How pictures are given scores over classes: by a head, by their neighbours, by their names.

A scorer prepares what it compares with, and then scores the pictures of one call after another.

Shapes: B pictures of a call, N training pictures, C classes, P texts, T text tokens, D width,
E embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vlpretrain.errors import UserError
from vlpretrain.metrics.classification import knn_predict
from vlpretrain.models.classifier import pool_states
from vlpretrain.tasks.classification import NO_CLASS, ClassificationTask
from vlpretrain.tasks.classification_set import LabelledSet, gather_units
from vlpretrain.tasks.units import Units
from vlpretrain.types import COUNTS, LabelBatch

Score = Callable[[Tensor], Tensor]
"""uint8 pixels [B, C, H, W] on the model's device -> scores [B, C], float32, the highest best."""

Scorer = Callable[[ClassificationTask], Score]
"""Every rank calls it, and then each Score equally often."""


def score_by_head(task: ClassificationTask) -> Score:
    """The classifier's probabilities."""
    return lambda pixels_BCHW: task(unlabelled(pixels_BCHW), evaluate=True).softmax(dim=1)


@dataclass(frozen=True)
class NeighbourScorer:
    """Votes of the nearest training pictures, by the tower's features (Wu et al. 2018).

    The features of all of them are held by every rank, in float32.
    """

    training: LabelledSet
    num_classes: int
    neighbours: int
    temperature: float
    batch: int

    def __call__(self, task: ClassificationTask) -> Score:
        """Sees every training picture once, divided over ranks.

        Raises:
            UserError: fewer training pictures than neighbours.
        """
        self._check(len(self.training))
        bank_ND, label_N = self._see_training(task)
        self._check(len(bank_ND))
        return lambda pixels_BCHW: knn_predict(
            bank_ND,
            label_N,
            features(task, pixels_BCHW),
            self.neighbours,
            self.temperature,
            self.num_classes,
        )

    def _check(self, num_training: int) -> None:
        if num_training < self.neighbours:
            raise UserError(
                f"{self.neighbours} neighbours of {num_training} training pictures",
                where="task.classification.neighbours",
                fix=f"at most {num_training}, or more training pictures (data.train)",
            )

    def _see_training(self, task: ClassificationTask) -> tuple[Tensor, Tensor]:
        """Features and classes of the training pictures that can be read."""
        device = device_of(task)
        units = Units(len(self.training), self.batch)
        parts, readable = [], []
        for pictures in self.training.shares(units):
            parts.append(features(task, pictures.pixels_BCHW.to(device)))
            readable.append(pictures.readable_B.to(device))
        readable_N = gather_units(units, readable)
        return (
            gather_units(units, parts)[readable_N],
            self.training.label_N.to(device)[readable_N],
        )


@dataclass(frozen=True)
class NameScorer:
    """Cosines of pictures with the names of the classes, each put into several texts whose
    embeddings are averaged and normalised again (Radford et al. 2021).

    Args:
        text_PT, text_valid_PT: the texts, class by class, equally many of each.
    """

    text_PT: Tensor
    text_valid_PT: Tensor
    num_classes: int
    batch: int

    def __call__(self, task: ClassificationTask) -> Score:
        """Reads every text once, divided over ranks."""
        class_CE = self._read_names(task)

        def score(pixels_BCHW: Tensor) -> Tensor:
            states = task.model.vision(pixels_BCHW)
            return F.normalize(task.model.image_embeddings(states).float(), dim=-1) @ class_CE.T

        return score

    def _read_names(self, task: ClassificationTask) -> Tensor:
        device, model = device_of(task), task.model
        units = Units(len(self.text_PT), self.batch)
        parts = []
        for unit in units.own():
            rows = list(unit) or [0]
            states = model.text(self.text_PT[rows].to(device), self.text_valid_PT[rows].to(device))
            parts.append(F.normalize(model.text_embeddings(states).float(), dim=-1))
        embedding_PE = gather_units(units, parts)
        mean_CE = embedding_PE.unflatten(0, (self.num_classes, -1)).mean(dim=1)
        return F.normalize(mean_CE, dim=-1)


def features(task: ClassificationTask, pixels_BCHW: Tensor) -> Tensor:
    """What the classifier would read of pictures, [B, D], float32."""
    return pool_states(task.model.vision(pixels_BCHW), task.classifier.spec.pool).float()


def unlabelled(pixels_BCHW: Tensor) -> LabelBatch:
    """Pictures whose class the task need not know."""
    size, device = len(pixels_BCHW), pixels_BCHW.device
    none = torch.zeros(len(COUNTS), device=device)
    return LabelBatch(
        pixels_BCHW=pixels_BCHW,
        label_B=torch.full((size,), NO_CLASS, device=device),
        counts=none,
        mean_counts=none,
        keys=("",) * size,
    )


def device_of(task: ClassificationTask) -> torch.device:
    return next(task.parameters()).device
