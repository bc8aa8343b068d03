"""What a run needs of its task. One class a task; `table.KITS` names them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vlpretrain.build.data import open_held_out
from vlpretrain.build.model import model_state, write_training
from vlpretrain.config.schema import RunConfig
from vlpretrain.data.held_out import HeldOut
from vlpretrain.data.loader import Recipe
from vlpretrain.data.shards import Source
from vlpretrain.data.tokenise import Tokeniser
from vlpretrain.models.inputs import TextReader, open_reader
from vlpretrain.types import Evaluator, Skip


class TaskKit(ABC):
    """A task's objects for one run. Every rank makes its own, rank 0 before the others.

    Args:
        sources: of training; for an evaluation those that are known, or none.
        folder: the run's, where what is made of the training data once is kept.
        judging: `config.init` is judged as it is; nothing is trained.
    """

    def __init__(
        self,
        config: RunConfig,
        sources: Sequence[Source],
        tokeniser: Tokeniser,
        folder: Path,
        judging: bool = False,
    ) -> None:
        self.config = config
        self.sources = sources
        self.tokeniser = tokeniser
        self.folder = folder
        self.judging = judging

    @abstractmethod
    def recipe(self) -> Recipe:
        """How samples become its micro-batches."""

    @abstractmethod
    def task(self) -> nn.Module:
        """A types.TrainTask with a VLModel as `model`."""

    @abstractmethod
    def evaluator(self) -> Evaluator | None:
        """The look at data.val; None where there is none."""

    @cached_property
    def held_out(self) -> HeldOut:
        """The samples of data.val; its `skips` name what an evaluation could not use."""
        return open_held_out(self.config)

    @property
    def unusable(self) -> Sequence[Skip]:
        """Held-out records and pictures that could not be used by the evaluations so far."""
        return self.held_out.skips if "held_out" in self.__dict__ else ()

    def reader(self) -> TextReader | None:
        """Texts to tokens and words, for explanations; one of its own, as it cuts texts itself."""
        kept = self.folder / "tokenizer"
        folder = kept if kept.is_dir() else Path(self.config.init)
        return open_reader(folder, self.config.data.max_tokens)

    def chance(self, task: nn.Module, batch: Any) -> dict[str, float]:
        """What each figure is for a model that has learnt nothing of its question, by name."""
        return {}

    def facts(self) -> dict[str, Any]:
        """What the summary says of the task, besides its data and model."""
        return {}

    def save(self, task: nn.Module, state_dict: dict[str, Tensor], folder: Path) -> None:
        """Writes a task's whole state dict as `VLModel.from_pretrained` reads it."""
        task.model.save_pretrained(  # type: ignore[operator, union-attr]
            folder, self.folder / "tokenizer", state=model_state(state_dict)
        )
        write_training(self.config, folder, self.learned_temperature(state_dict))

    def learned_temperature(self, state_dict: dict[str, Tensor]) -> float | None:
        """Of contrastive logits; None where the task has none."""
        return None
