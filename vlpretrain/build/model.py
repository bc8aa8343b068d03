"""The model, from the configuration or from an export; and what an export says of its training."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlpretrain.build.data import check_export
from vlpretrain.config.schema import ObjectivesConfig, RunConfig
from vlpretrain.data.remote import is_remote
from vlpretrain.data.tokenise import Tokeniser
from vlpretrain.errors import UserError
from vlpretrain.models.factory import create_model, read_spec
from vlpretrain.models.layer_scales import layer_scales
from vlpretrain.models.resize import resize_positions
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.models.weights import load_weights, read_weights

TRAINING_FILE = "training.json"


def build_model(config: RunConfig, tokeniser: Tokeniser) -> VLModel:
    """The model with the weights that the configuration asks for; random ones by its seed."""
    torch.manual_seed(config.train.seed)
    if config.init:
        return start_from(config)
    return create_model(model_spec(config, tokeniser))


def start_from(config: RunConfig) -> VLModel:
    """The model of an export: its own architecture, at this run's picture size and dropout.

    Raises:
        UserError: no export, or its weights do not fit what it says of itself.
    """
    check_export(config.init)
    spec = read_spec(Path(config.init))
    data, model = config.data, config.model
    vision = replace(
        spec.vision,
        image_size=data.image_size,
        block=mask_block(config),
        drop_path=model.vision.drop_path,
    )
    text = with_dropout(spec.text, model.text.dropout)
    text = replace(text, max_tokens=max(text.max_tokens, data.max_tokens))
    fusion = replace(spec.fusion, dropout=model.fusion.dropout)
    built = create_model(replace(spec, vision=vision, text=text, fusion=fusion))
    state = resize_positions(read_weights(config.init), built)
    report = load_weights(built, state, source=config.init)
    if report.missing or report.mismatched or report.unexpected:
        another_size = data.image_size != spec.vision.image_size
        raise UserError(
            f"the weights do not fit the model\n{report}",
            where=f"init {config.init}",
            fix=f"data.image_size {spec.vision.image_size}, the size that it was trained at"
            if another_size
            else "export the model again",
        )
    return built


def with_dropout(text: TextSpec, dropout: float) -> TextSpec:
    """A "bert" encoder with another dropout; other encoders keep their own."""
    if text.name != "bert" or text.architecture is None:
        return text
    architecture = {**text.architecture, "hidden_dropout_prob": dropout}
    return replace(text, dropout=dropout, architecture=architecture)


def model_spec(config: RunConfig, tokeniser: Tokeniser) -> ModelSpec:
    data, model = config.data, config.model
    vision = VisionSpec(
        name=model.vision.name,
        image_size=data.image_size,
        block=mask_block(config),
        weights=model.vision.weights,
        depth=model.vision.depth,
        width=model.vision.width,
        heads=model.vision.heads,
        patch=model.vision.patch,
        drop_path=model.vision.drop_path,
        position=model.vision.position,
        stem=model.vision.stem,
    )
    text = TextSpec(
        name=model.text.name,
        weights=model.text.weights,
        vocab_size=tokeniser.vocab_size,
        max_tokens=data.max_tokens,
        pad_id=tokeniser.pad_id,
        depth=model.text.depth,
        width=model.text.width,
        heads=model.text.heads,
        dropout=model.text.dropout,
    )
    fusion = FusionSpec(
        kind=model.fusion.kind,
        depth=model.fusion.depth,
        width=model.fusion.width,
        heads=model.fusion.heads,
        dropout=model.fusion.dropout,
    )
    return ModelSpec(vision, text, fusion, model.embed_dim)


def mask_block(config: RunConfig) -> int:
    """Side of a mask block in pixels; the whole picture where nothing is hidden."""
    return config.objectives.mim.block if hides_pictures(config) else config.data.image_size


def hides_pictures(config: RunConfig) -> bool:
    return bool(active(config.objectives)) and config.task.name in ("pretrain", "retrieval")


def active(objectives: ObjectivesConfig) -> bool:
    return objectives.mim.weight != 0


def checkpoint_activations(task: nn.Module) -> None:
    """Has the towers and the fusion recompute their layers in the backward pass."""
    _model_of(task).set_checkpointing(True)


def compile_task(task: nn.Module) -> None:
    """torch.compile for the layers of the towers and the fusion."""
    _model_of(task).compile_blocks()


def learning_rate_scales(config: RunConfig, task: nn.Module) -> dict[str, float]:
    """How much slower (or a head: faster) than optim.lr each parameter learns, by name; those
    that are not named learn at optim.lr."""
    return layer_scales(
        _model_of(task), task, decay=config.optim.layer_decay, head=config.optim.head_lr
    )


def _model_of(task: nn.Module) -> VLModel:
    model = task.get_submodule("model")
    assert isinstance(model, VLModel)
    return model


def model_state(state_dict: dict[str, Tensor], prefix: str = "model.") -> dict[str, Tensor]:
    """The part of a task's whole state dict whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state_dict.items()
        if name.startswith(prefix)
    }


@dataclass(frozen=True)
class Training:
    """What an export says of how it was made: the last task, all training sources so far, and the
    learned temperature of contrastive logits, where one was learned."""

    task: str
    sources: tuple[str, ...]
    temperature: float | None = None


def read_training(export_folder: str | Path) -> Training | None:
    """None where the export says nothing."""
    path = Path(export_folder) / TRAINING_FILE
    try:
        content: Any = json.loads(path.read_text())
        temperature = content.get("temperature")
        return Training(
            str(content["task"]),
            tuple(str(one) for one in content["sources"]),
            None if temperature is None else float(temperature),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_training(config: RunConfig, folder: Path, temperature: float | None) -> None:
    """Beside the export in `folder`; what the model was started from is remembered.

    Args:
        temperature: that this run learned, if it did.
    """
    before = read_training(config.init) if config.init else None
    sources = [absolute_spec(spec) for spec in config.data.train]
    known = [*(before.sources if before else ()), *sources]
    if temperature is None and before is not None:
        temperature = before.temperature
    content = {
        "task": config.task.name,
        "sources": list(dict.fromkeys(known)),
        "temperature": temperature,
    }
    partial = folder / f"{TRAINING_FILE}.partial"
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, folder / TRAINING_FILE)


def absolute_spec(spec: str) -> str:
    """A source as it is found from any folder."""
    return spec if is_remote(spec) else str(Path(spec).resolve())


def named(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
