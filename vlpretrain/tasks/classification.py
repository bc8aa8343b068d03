"""Classes of pictures as a training task: fine-tuning, or a linear probe of a tower as it is.

Shapes: B pictures, C classes.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlpretrain.models.classifier import Classifier
from vlpretrain.models.vision import VisionStates
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.objectives.base import mean_count
from vlpretrain.types import GlobalEmbeddings, LabelBatch, StepOutput

NO_CLASS = -1


class ClassificationTask(nn.Module):
    """Image tower and classifier under cross-entropy.

    A probe's tower stays as it is: in evaluation mode and without gradient, whatever `train` says.

    Args:
        smoothing: share of the target that is spread evenly over all classes.
    """

    def __init__(self, model: VLModel, classifier: Classifier, smoothing: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.classifier = classifier
        self.smoothing = smoothing
        self.frozen = classifier.spec.probe
        freeze_unread(model, tower=self.frozen)
        self.train()

    def needs_prepass(self, progress: float) -> bool:
        return False

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def forward(
        self,
        batch: LabelBatch,
        others: GlobalEmbeddings | None = None,
        prepass: bool = False,
        evaluate: bool = False,
    ) -> StepOutput | Tensor:
        """One micro-batch; with `evaluate` the logits [B, C], float32."""
        logit_BC = self.classifier(self._see(batch.pixels_BCHW))
        if evaluate:
            return logit_BC
        count = mean_count(batch, "labels")
        loss = label_loss(logit_BC, batch.label_B, self.smoothing) / count
        right_B = logit_BC.detach().argmax(dim=1) == batch.label_B
        metrics = {
            "loss/classification": loss.detach(),
            "classification/accuracy": right_B.sum() / count,
        }
        return StepOutput(loss, metrics)

    def _see(self, pixels_BCHW: Tensor) -> VisionStates:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.model.vision(pixels_BCHW)


def freeze_unread(model: VLModel, *, tower: bool) -> None:
    """Takes the gradient off what no class is read from: the optimiser then holds nothing for it.

    Args:
        tower: off the image tower as well.
    """
    model.requires_grad_(False)
    if tower:
        return
    model.vision.requires_grad_(True)
    if model.vision.mask_token is not None:
        model.vision.mask_token.requires_grad_(False)


def label_loss(logit_BC: Tensor, label_B: Tensor, smoothing: float) -> Tensor:
    """The sum of the cross-entropies; a row of NO_CLASS counts nothing."""
    return F.cross_entropy(
        logit_BC, label_B, ignore_index=NO_CLASS, label_smoothing=smoothing, reduction="sum"
    )
