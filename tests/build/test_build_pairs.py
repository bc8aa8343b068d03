"""What a run takes over from the export that it starts from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from labelled_shards import write_labelled

from vlpretrain.build.data import open_sources
from vlpretrain.build.model import TRAINING_FILE, read_training
from vlpretrain.build.pairs import PretrainKit
from vlpretrain.config.schema import (
    DataConfig,
    FusionConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    VisionConfig,
)
from vlpretrain.data.tokenise import spelling_texts, train_wordpiece


def kit_of(folder: Path, init: str = "", text_dropout: float = 0.1) -> PretrainKit:
    shards = folder / "shards"
    if not shards.exists():
        write_labelled(shards, ["red", "blue"])
    config = RunConfig(
        data=DataConfig(train=(str(shards),), image_size=32),
        model=ModelConfig(
            vision=VisionConfig("vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8),
            text=TextConfig(depth=1, width=16, heads=2, dropout=text_dropout),
            fusion=FusionConfig(depth=1, width=16, heads=2),
            embed_dim=8,
        ),
        init=init,
    )
    sources = open_sources(config.data.train, config.data)
    run = folder / "run"
    run.mkdir(exist_ok=True)
    tokeniser = train_wordpiece(spelling_texts(), 60)
    tokeniser.save(run / "tokenizer")
    return PretrainKit(config, sources, tokeniser, run)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export whose contrast has learned a temperature of 0.03."""
    kit = kit_of(tmp_path)
    task = kit.task()
    torch.nn.init.constant_(task.temperature.log_scale, -torch.tensor(0.03).log().item())
    kit.save(task, task.state_dict(), tmp_path / "export")
    return tmp_path / "export"


def test_a_learned_temperature_is_gone_on_with(tmp_path: Path, export: Path) -> None:
    training = read_training(export)
    assert training is not None
    assert training.temperature == pytest.approx(0.03)
    assert kit_of(tmp_path, str(export)).task().temperature().item() == pytest.approx(1 / 0.03)


def test_an_export_that_says_none_starts_at_the_configurations(
    tmp_path: Path, export: Path
) -> None:
    training = json.loads((export / TRAINING_FILE).read_text())
    del training["temperature"]
    (export / TRAINING_FILE).write_text(json.dumps(training))
    assert kit_of(tmp_path, str(export)).task().temperature().item() == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_texts_dropout_is_the_configurations(
    tmp_path: Path, export: Path, dropout: float
) -> None:
    text = kit_of(tmp_path, str(export), dropout).task().model.text
    rates = {module.p for module in text.modules() if isinstance(module, torch.nn.Dropout)}
    assert dropout in rates
    assert 0.1 not in rates
