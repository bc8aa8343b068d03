"""What a model is made of, in plain values: the towers' arguments, kept in vlpretrain.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class VisionSpec:
    """An image tower; zeros stand for the named model's own size."""

    name: str = "vit_small_patch16_224"  # a timm name, or "open_clip:MODEL"
    image_size: int = 224  # side of the square picture, pixels
    block: int = 32  # side of a mask block, pixels
    weights: str = ""  # "" random, "pretrained", an open_clip tag, or a local file or folder
    depth: int = 0
    width: int = 0
    heads: int = 0
    patch: int = 0  # pixels
    drop_path: float = 0.0
    position: Literal["own", "conditional"] = "own"
    stem: Literal["own", "conv"] = "own"


@dataclass(frozen=True)
class TextSpec:
    """A text tower. `depth`, `width`, `heads` and `dropout` are those of the "bert" encoder."""

    name: str = "bert"  # "bert", a transformers folder or hub name, or "open_clip:MODEL"
    weights: str = "random"  # "random", "pretrained", or an open_clip tag
    vocab_size: int = 8000
    max_tokens: int = 40  # longest text that will come, in tokens
    pad_id: int = 0
    depth: int = 6
    width: int = 384
    heads: int = 6
    dropout: float = 0.1
    # A transformers configuration as a dictionary: takes the place of what `name` would look up.
    architecture: dict[str, Any] | None = None


@dataclass(frozen=True)
class FusionSpec:
    """The cross-modal module."""

    kind: Literal["cross", "merged", "concat"] = "cross"
    depth: int = 6
    width: int = 384
    heads: int = 6
    dropout: float = 0.1


@dataclass(frozen=True)
class ModelSpec:
    """A whole model."""

    vision: VisionSpec = field(default_factory=VisionSpec)
    text: TextSpec = field(default_factory=TextSpec)
    fusion: FusionSpec = field(default_factory=FusionSpec)
    embed_dim: int = 256
