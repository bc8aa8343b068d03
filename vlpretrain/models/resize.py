"""A model's weights at another picture size: position embeddings are resampled."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import open_clip
from torch import nn

from vlpretrain.models.vlmodel import VLModel
from vlpretrain.models.weights import State

_VISION = "vision.backbone."
_CLIP = "visual."  # where open_clip's own models have their image tower


def resize_positions(state: State, model: VLModel) -> State:
    """The weights with the image tower's position embeddings at the model's picture size, by the
    backbone's own library; unchanged where the sizes agree or nothing is resampled."""
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
    """timm has one for each family of models."""
    if isinstance(backbone, open_clip.transformer.VisionTransformer):
        return _resize_clip
    library = sys.modules[type(backbone).__module__]
    return library.checkpoint_filter_fn if hasattr(library, "checkpoint_filter_fn") else None


def _resize_clip(state: State, backbone: nn.Module) -> State:
    named = {_CLIP + name: tensor for name, tensor in state.items()}
    open_clip.model.resize_pos_embed(named, SimpleNamespace(visual=backbone))
    return {name.removeprefix(_CLIP): tensor for name, tensor in named.items()}
