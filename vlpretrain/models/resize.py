"""A model's weights at another picture size: position embeddings are resampled."""

from __future__ import annotations

import sys
from collections.abc import Callable

from torch import nn

from vlpretrain.models.vlmodel import VLModel
from vlpretrain.models.weights import State

_VISION = "vision.backbone."


def resize_positions(state: State, model: VLModel) -> State:
    """The weights with the image tower's position embeddings at the model's picture size, by timm's
    own filter of the backbone's family; unchanged where the sizes agree or nothing is resampled."""
    own = model.vision.backbone.state_dict()
    part = {k.removeprefix(_VISION): v for k, v in state.items() if k.startswith(_VISION)}
    if all(name not in own or own[name].shape == tensor.shape for name, tensor in part.items()):
        return state
    convert = _filter_of(model.vision.backbone)
    if convert is None:
        return state
    resized = convert(dict(part), model.vision.backbone)
    others = {name: tensor for name, tensor in state.items() if not name.startswith(_VISION)}
    return others | {_VISION + name: tensor for name, tensor in resized.items()}


def _filter_of(backbone: nn.Module) -> Callable[[State, nn.Module], State] | None:
    library = sys.modules[type(backbone).__module__]
    return library.checkpoint_filter_fn if hasattr(library, "checkpoint_filter_fn") else None
