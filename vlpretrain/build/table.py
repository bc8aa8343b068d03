"""The tasks by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlpretrain.build.classification import ClassificationKit
from vlpretrain.build.kit import TaskKit
from vlpretrain.build.pairs import PretrainKit
from vlpretrain.build.retrieval import RetrievalKit
from vlpretrain.build.vqa import VqaKit
from vlpretrain.config.schema import RunConfig
from vlpretrain.data.shards import Source
from vlpretrain.data.tokenise import Tokeniser

KITS: dict[str, type[TaskKit]] = {
    "pretrain": PretrainKit,
    "vqa": VqaKit,
    "retrieval": RetrievalKit,
    "classification": ClassificationKit,
}


def open_kit(
    config: RunConfig,
    sources: Sequence[Source],
    tokeniser: Tokeniser,
    folder: Path,
    judging: bool = False,
) -> TaskKit:
    """The objects of the run's task; see TaskKit."""
    return KITS[config.task.name](config, sources, tokeniser, folder, judging)
