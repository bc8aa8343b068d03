"""An answerer beside its model: `answerer.safetensors`, and `answerer.json` which describes it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from vlpretrain import __version__
from vlpretrain.errors import UserError
from vlpretrain.models.answerer import Answerer, AnswererSpec
from vlpretrain.models.weights import (
    load_exactly,
    read_description,
    read_weights,
    save_description,
    save_weights,
)

DESCRIPTION_FILE = "answerer.json"
WEIGHTS_FILE = "answerer.safetensors"
TASK = "vqa"


def save_answerer(answerer: Answerer, folder: Path, state: dict[str, Tensor] | None = None) -> None:
    """Writes both files into the folder of its model. Each is whole or absent; the description
    comes last, and an older one goes first.

    Args:
        state: the weights to write; None: the answerer's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_answerer(folder)
    save_weights(answerer.state_dict() if state is None else state, folder / WEIGHTS_FILE)
    description = {"version": __version__, "task": TASK, "answerer": asdict(answerer.spec)}
    save_description(description, folder / DESCRIPTION_FILE)


def load_answerer(folder: Path, width: int, vocab_size: int) -> Answerer | None:
    """The answerer of an export folder in evaluation mode; None where it has none.

    Args:
        width: of the model's fusion.
        vocab_size: of its text tower.

    Raises:
        UserError: damaged files, or those of another model.
    """
    spec = read_answerer(folder)
    if spec is None:
        return None
    answerer = Answerer(spec, width, vocab_size)
    weights = folder / WEIGHTS_FILE
    load_exactly(answerer, read_weights(weights), weights, DESCRIPTION_FILE)
    return answerer.eval()


def read_answerer(folder: Path) -> AnswererSpec | None:
    """What the answerer of an export folder is made of; None where it has none.

    Raises:
        UserError: a damaged file.
    """
    path = folder / DESCRIPTION_FILE
    return _spec_of(read_description(path), path) if path.is_file() else None


def remove_answerer(folder: Path) -> None:
    """Takes both files away, if they are there, the description first."""
    for name in (DESCRIPTION_FILE, WEIGHTS_FILE):
        (folder / name).unlink(missing_ok=True)


def _spec_of(description: dict[str, Any], path: Path) -> AnswererSpec:
    if description.get("task") != TASK:
        raise UserError(
            f"made for the task {description.get('task')!r}, not {TASK!r}",
            where=str(path),
            fix="the export folder of a model fine-tuned for visual question answering",
        )
    try:
        parts = dict(description["answerer"])
        # JSON knows lists alone.
        parts["answers"] = tuple(parts["answers"])
        parts["answer_tokens"] = tuple(tuple(ids) for ids in parts["answer_tokens"])
        return AnswererSpec(**parts)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"describes an answerer that version {__version__} does not know: {error}",
            where=str(path),
            fix=f"the version that wrote it ({description.get('version', 'unknown')})",
        ) from error
