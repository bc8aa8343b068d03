"""An answerer beside its model: `answerer.safetensors` and `answerer.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vlpretrain.models.answerer import Answerer, AnswererSpec
from vlpretrain.models.head_files import HeadFiles


def save_answerer(answerer: Answerer, folder: Path, state: dict[str, Tensor] | None = None) -> None:
    """Writes the files into the folder of its model.

    Args:
        state: the weights to write; None: the answerer's own.
    """
    whole = answerer.state_dict() if state is None else state
    ANSWERER_FILES.save(answerer.spec, whole, folder)


def load_answerer(folder: Path, width: int, vocab_size: int) -> Answerer | None:
    """The answerer of an export folder in evaluation mode; None where it has none.

    Args:
        width: of the model's fusion.
        vocab_size: of its text tower.

    Raises:
        UserError: damaged files, or those of another model.
    """
    return ANSWERER_FILES.load(folder, lambda spec: Answerer(spec, width, vocab_size))


def _spec_of(parts: Mapping[str, Any]) -> AnswererSpec:
    # JSON knows lists alone.
    answers = tuple(parts["answers"])
    answer_tokens = tuple(tuple(ids) for ids in parts["answer_tokens"])
    return AnswererSpec(**{**parts, "answers": answers, "answer_tokens": answer_tokens})


ANSWERER_FILES = HeadFiles("answerer", _spec_of)
