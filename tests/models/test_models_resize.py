"""Weights at another picture size: positions are resampled, nothing else changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from timm.layers import resample_abs_pos_embed

from vlpretrain.models.factory import create_model
from vlpretrain.models.resize import resize_positions
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.models.weights import load_weights

POSITIONS = "vision.backbone.pos_embed"


def model_at(size: int, seed: int = 0, name: str = "vit_tiny_patch16_224") -> VLModel:
    torch.manual_seed(seed)
    vision = VisionSpec(name, size, size, depth=1, width=16, heads=2, patch=8)
    text = TextSpec(vocab_size=20, max_tokens=8, depth=1, width=16, heads=2)
    return create_model(ModelSpec(vision, text, FusionSpec("cross", 1, 16, 2), 8))


def test_positions_are_resampled_as_timm_does_it() -> None:
    state = model_at(32).state_dict()
    larger = model_at(64, seed=1)
    resized = resize_positions(state, larger)
    expected = resample_abs_pos_embed(state[POSITIONS], [8, 8], [4, 4], num_prefix_tokens=1)
    torch.testing.assert_close(resized[POSITIONS], expected)
    assert torch.equal(resized[POSITIONS][:, 0], state[POSITIONS][:, 0])  # the class token's
    assert resized.keys() == state.keys()
    for name in state.keys() - {POSITIONS}:
        assert torch.equal(resized[name], state[name]), name
    report = load_weights(larger, resized, "there")
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())


def test_the_same_size_is_left_alone() -> None:
    state = model_at(32).state_dict()
    assert resize_positions(state, model_at(32, seed=1)) is state


def test_a_larger_picture_shows_the_same_at_once() -> None:
    """A plain picture's tokens barely change with the number of them."""
    small, large = model_at(32).eval(), model_at(64, seed=1).eval()
    load_weights(large, resize_positions(small.state_dict(), large), "there")
    with torch.no_grad():
        pooled = [
            model.vision(torch.full((1, 3, size, size), 90, dtype=torch.uint8)).pooled_BD
            for model, size in ((small, 32), (large, 64))
        ]
    assert torch.cosine_similarity(*pooled) > 0.99


@pytest.mark.parametrize("size", [16, 48])
def test_open_clips_own_towers_are_resampled_too(size: int) -> None:
    def tower(image_size: int) -> Any:
        return open_clip.transformer.VisionTransformer(
            image_size=image_size,
            patch_size=8,
            width=16,
            layers=1,
            heads=2,
            mlp_ratio=2.0,
            output_dim=8,
        )

    prefix = "vision.backbone."
    torch.manual_seed(0)
    state = {prefix + name: tensor for name, tensor in tower(32).state_dict().items()}
    other = tower(size)
    model: Any = SimpleNamespace(vision=SimpleNamespace(backbone=other))
    resized = resize_positions(state, model)
    name = prefix + "positional_embedding"
    assert resized[name].shape == other.positional_embedding.shape
    assert torch.equal(resized[name][0], state[name][0])
    assert resized.keys() == state.keys()
    mean = state[name][1:].mean(0)
    torch.testing.assert_close(resized[name][1:].mean(0), mean, rtol=0, atol=0.1)
