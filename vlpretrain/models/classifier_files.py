"""A classifier beside its model: `classifier.safetensors`, and `classifier.json`: its classes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from vlpretrain import __version__
from vlpretrain.errors import UserError
from vlpretrain.models.classifier import Classifier, ClassifierSpec
from vlpretrain.models.weights import (
    load_exactly,
    read_description,
    read_weights,
    save_description,
    save_weights,
)

DESCRIPTION_FILE = "classifier.json"
WEIGHTS_FILE = "classifier.safetensors"


def save_classifier(
    classifier: Classifier, folder: Path, state: dict[str, Tensor] | None = None
) -> None:
    """Writes both files into the folder of its model. Each is whole or absent; the description
    comes last, and an older one goes first.

    Args:
        state: the weights to write; None: the classifier's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_classifier(folder)
    save_weights(classifier.state_dict() if state is None else state, folder / WEIGHTS_FILE)
    description = {"version": __version__, "classifier": asdict(classifier.spec)}
    save_description(description, folder / DESCRIPTION_FILE)


def load_classifier(folder: Path, width: int) -> Classifier | None:
    """The classifier of an export folder in evaluation mode; None where it has none.

    Args:
        width: of the model's image tower.

    Raises:
        UserError: damaged files, or those of another model.
    """
    spec = read_classifier(folder)
    if spec is None:
        return None
    classifier = Classifier(spec, width)
    weights = folder / WEIGHTS_FILE
    load_exactly(classifier, read_weights(weights), weights, DESCRIPTION_FILE)
    return classifier.eval()


def read_classifier(folder: Path) -> ClassifierSpec | None:
    """What the classifier of an export folder is made of; None where it has none.

    Raises:
        UserError: a damaged description, or one of another version.
    """
    path = folder / DESCRIPTION_FILE
    return _spec_of(read_description(path), path) if path.is_file() else None


def remove_classifier(folder: Path) -> None:
    """Takes both files away, if they are there, the description first."""
    for name in (DESCRIPTION_FILE, WEIGHTS_FILE):
        (folder / name).unlink(missing_ok=True)


def _spec_of(description: dict[str, Any], path: Path) -> ClassifierSpec:
    try:
        parts = dict(description["classifier"])
        # JSON knows lists alone.
        parts["classes"] = tuple(parts["classes"])
        return ClassifierSpec(**parts)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"describes a classifier that version {__version__} does not know: {error}",
            where=str(path),
            fix=f"the version that wrote it ({description.get('version', 'unknown')})",
        ) from error
