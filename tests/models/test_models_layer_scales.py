"""Layer-wise decay: the number of layers above a parameter, by its name in every family."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vlpretrain.errors import UserError
from vlpretrain.models.factory import create_model
from vlpretrain.models.layer_scales import layer_scales
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.models.vlmodel import VLModel

DECAY = 0.5
FUSION = FusionSpec(depth=1, width=16, heads=2)
BERT = TextSpec(vocab_size=120, depth=3, width=16, heads=2)
VIT = VisionSpec("vit_tiny_patch16_224", 32, 16, depth=2, width=16, heads=2, patch=8)


class Task(nn.Module):
    def __init__(self, model: VLModel) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(16, 3)


def task_of(vision: VisionSpec = VIT, text: TextSpec = BERT) -> Task:
    return Task(create_model(ModelSpec(vision, text, FUSION, embed_dim=8)))


def exponents(task: Task, head: float = 1.0) -> dict[str, int]:
    """By parameter name: how often the decay is applied."""
    scales = layer_scales(task.model, task, decay=DECAY, head=head)
    return {
        name: round(math.log(scales.get(name, 1.0), DECAY)) for name, _ in task.named_parameters()
    }


VISION = [
    (
        VIT,
        {
            "mask_token": 3,
            "backbone.cls_token": 3,
            "backbone.pos_embed": 3,
            "backbone.patch_embed.proj.weight": 3,
            "backbone.blocks.0.attn.qkv.weight": 2,
            "backbone.blocks.1.norm1.bias": 1,
            "backbone.norm.weight": 0,
        },
    ),
    # CLIP's ViT has a norm in front of the blocks, and its tower positions of our own.
    (
        VisionSpec(
            "vit_base_patch16_clip_224",
            *(32, 16),
            depth=2,
            width=16,
            heads=2,
            patch=8,
            position="conditional",
        ),
        {
            "backbone.norm_pre.weight": 3,
            "position.neighbours.weight": 3,
            "backbone.blocks.0.norm1.weight": 2,
            "backbone.norm.weight": 0,
        },
    ),
    (
        VisionSpec("swin_tiny_patch4_window7_224", 224, 32),
        {
            "mask_token": 13,
            "backbone.patch_embed.norm.weight": 13,
            "backbone.layers.0.blocks.0.norm1.weight": 12,
            "backbone.layers.0.blocks.1.attn.relative_position_bias_table": 11,
            "backbone.layers.1.downsample.reduction.weight": 10,
            "backbone.layers.1.blocks.0.mlp.fc1.weight": 10,
            "backbone.layers.2.blocks.5.norm2.bias": 3,
            "backbone.layers.3.blocks.1.norm2.bias": 1,
            "backbone.norm.bias": 0,
        },
    ),
    (
        VisionSpec("convnext_atto", 64, 32),
        {
            "backbone.stem.0.weight": 13,
            "backbone.stages.0.blocks.0.conv_dw.weight": 12,
            "backbone.stages.1.downsample.1.weight": 10,
            "backbone.stages.1.blocks.0.gamma": 10,
            "backbone.stages.3.blocks.1.norm.weight": 1,
            "backbone.head.norm.weight": 0,
        },
    ),
    (
        VisionSpec("resnet18", 64, 32),
        {
            "backbone.conv1.weight": 9,
            "backbone.bn1.weight": 9,
            "backbone.layer1.0.conv1.weight": 8,
            "backbone.layer2.0.downsample.0.weight": 6,
            "backbone.layer4.1.bn2.bias": 1,
        },
    ),
    (
        VisionSpec("open_clip:ViT-S-32-alt", 64, 32),
        {
            "mask_token": 13,
            "backbone.class_embedding": 13,
            "backbone.positional_embedding": 13,
            "backbone.conv1.weight": 13,
            "backbone.ln_pre.weight": 13,
            "backbone.transformer.resblocks.0.attn.in_proj_weight": 12,
            "backbone.transformer.resblocks.11.mlp.c_fc.weight": 1,
            "backbone.ln_post.bias": 0,
        },
    ),
]


@pytest.mark.parametrize(("spec", "expected"), VISION, ids=lambda value: getattr(value, "name", ""))
def test_an_image_tower_by_depth(spec: VisionSpec, expected: dict[str, int]) -> None:
    task = task_of(spec)
    found = exponents(task)
    assert {name: found[f"model.vision.{name}"] for name in expected} == expected
    # A module is registered in the order that it runs in, so the factors never fall again.
    blocks = [power for name, power in found.items() if ".vision.backbone." in name]
    assert blocks == sorted(blocks, reverse=True)
    assert set(blocks) >= set(range(1, max(blocks) + 1))


def test_a_bert_by_depth() -> None:
    found = exponents(task_of())
    names = {
        "embeddings.word_embeddings.weight": 4,
        "embeddings.LayerNorm.weight": 4,
        "encoder.layer.0.attention.self.query.weight": 3,
        "encoder.layer.2.output.LayerNorm.bias": 1,
    }
    assert {name: found[f"model.text.encoder.model.{name}"] for name in names} == names


def test_heads_fusion_and_projections_learn_at_the_whole_rate() -> None:
    task = task_of()
    found = exponents(task)
    outside = [name for name in found if not name.startswith(("model.vision.", "model.text."))]
    assert outside
    assert {found[name] for name in outside} == {0}
    scales = layer_scales(task.model, task, decay=1.0, head=10.0)
    assert scales == {"head.weight": 10.0, "head.bias": 10.0}


def test_what_is_frozen_has_no_factor_and_needs_no_layers() -> None:
    task = task_of()
    task.model.text.encoder = nn.Linear(2, 2)
    with pytest.raises(UserError, match="told apart"):
        exponents(task)
    task.model.text.requires_grad_(False)
    scales = layer_scales(task.model, task, decay=DECAY, head=1.0)
    assert all(name.startswith("model.vision.") for name in scales)


def test_a_parameter_of_two_names_has_one_factor() -> None:
    task = task_of()
    task.tied = task.model.vision.backbone.patch_embed.proj.weight
    names = [name for name, _ in task.named_parameters()]
    assert "tied" in names
    scales = layer_scales(task.model, task, decay=DECAY, head=1.0)
    assert scales["tied"] == DECAY**3
    assert torch.tensor(list(scales.values())).lt(1).all()
