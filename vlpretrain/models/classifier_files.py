"""A classifier beside its model: `classifier.safetensors` and `classifier.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vlpretrain.models.classifier import Classifier, ClassifierSpec
from vlpretrain.models.head_files import HeadFiles


def save_classifier(
    classifier: Classifier, folder: Path, state: dict[str, Tensor] | None = None
) -> None:
    """Writes the files into the folder of its model.

    Args:
        state: the weights to write; None: the classifier's own.
    """
    whole = classifier.state_dict() if state is None else state
    CLASSIFIER_FILES.save(classifier.spec, whole, folder)


def load_classifier(folder: Path, width: int) -> Classifier | None:
    """The classifier of an export folder in evaluation mode; None where it has none.

    Args:
        width: of the model's image tower.

    Raises:
        UserError: damaged files, or those of another model.
    """
    return CLASSIFIER_FILES.load(folder, lambda spec: Classifier(spec, width))


def _spec_of(parts: Mapping[str, Any]) -> ClassifierSpec:
    # JSON knows lists alone.
    return ClassifierSpec(**{**parts, "classes": tuple(parts["classes"])})


CLASSIFIER_FILES = HeadFiles("classifier", _spec_of)
