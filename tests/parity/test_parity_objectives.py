"""Masked-image modelling equals transformers' SimMIM: loss and gradients, weights carried over."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    SwinConfig,
    SwinForMaskedImageModeling,
    ViTConfig,
    ViTForMaskedImageModeling,
)

from vlpretrain.models.spec import VisionSpec
from vlpretrain.models.vision import VisionTower
from vlpretrain.objectives.features import Features
from vlpretrain.objectives.mim import MaskedImageModelling
from vlpretrain.types import COUNTS, Batch

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

# timm's names as transformers'; {} stands for q, k or v where timm holds the three in one matrix.
VIT_NAMES = {
    r"cls_token": "vit.embeddings.cls_token",
    r"pos_embed": "vit.embeddings.position_embeddings",
    r"patch_embed\.proj\.(.*)": r"vit.embeddings.patch_embeddings.projection.\1",
    r"blocks\.(\d+)\.norm1\.(.*)": r"vit.layers.\1.layernorm_before.\2",
    r"blocks\.(\d+)\.norm2\.(.*)": r"vit.layers.\1.layernorm_after.\2",
    r"blocks\.(\d+)\.attn\.qkv\.(.*)": r"vit.layers.\1.attention.{}_proj.\2",
    r"blocks\.(\d+)\.attn\.proj\.(.*)": r"vit.layers.\1.attention.o_proj.\2",
    r"blocks\.(\d+)\.mlp\.(.*)": r"vit.layers.\1.mlp.\2",
    r"norm\.(.*)": r"vit.layernorm.\1",
}
SWIN_BLOCK = r"layers\.(\d+)\.blocks\.(\d+)"
SWIN_LAYER = r"swin.encoder.layers.\1.blocks.\2"
SWIN_NAMES = {
    r"patch_embed\.proj\.(.*)": r"swin.embeddings.patch_embeddings.projection.\1",
    r"patch_embed\.norm\.(.*)": r"swin.embeddings.norm.\1",
    rf"{SWIN_BLOCK}\.norm1\.(.*)": rf"{SWIN_LAYER}.layernorm_before.\3",
    rf"{SWIN_BLOCK}\.norm2\.(.*)": rf"{SWIN_LAYER}.layernorm_after.\3",
    rf"{SWIN_BLOCK}\.attn\.qkv\.(.*)": rf"{SWIN_LAYER}.attention.{{}}_proj.\3",
    rf"{SWIN_BLOCK}\.attn\.proj\.(.*)": rf"{SWIN_LAYER}.attention.o_proj.\3",
    rf"{SWIN_BLOCK}\.attn\.relative_position_bias_table": (
        rf"{SWIN_LAYER}.attention.relative_position_bias.relative_position_bias_table"
    ),
    rf"{SWIN_BLOCK}\.mlp\.(.*)": rf"{SWIN_LAYER}.mlp.\3",
    r"norm\.(.*)": r"swin.layernorm.\1",
}


def name_of(name: str, names: dict[str, str]) -> str:
    if match := re.fullmatch(r"layers\.(\d+)\.downsample\.(.*)", name):
        # timm merges patches on entering a stage, transformers on leaving the one before.
        return f"swin.encoder.layers.{int(match[1]) - 1}.downsample.{match[2]}"
    for pattern, target in names.items():
        if re.fullmatch(pattern, name):
            return re.sub(pattern, target, name)
    raise KeyError(name)


def theirs(name: str, values: dict[str, Tensor], names: dict[str, str]) -> Tensor:
    """What transformers holds under timm's name, the three projections joined."""
    other = name_of(name, names)
    return (
        torch.cat([values[other.format(part)] for part in "qkv"])
        if "{}" in other
        else values[other]
    )


def batch_of(size: int, block: int, patch_hidden_BG: Tensor) -> Batch:
    pixels_BCHW = torch.randint(0, 256, (len(patch_hidden_BG), 3, size, size), dtype=torch.uint8)
    present_B = torch.ones(len(patch_hidden_BG), dtype=torch.bool)
    nothing = torch.empty(0)
    counts = torch.ones(len(COUNTS))
    counts[COUNTS.index("hidden_blocks")] = patch_hidden_BG.sum()
    texts = ("text_BT", "text_valid_BT", "masked_text_BT", "image_id_B", "text_id_B")
    words = ("hidden_word_index_M", "hidden_word_target_M")
    return Batch(
        pixels_BCHW=pixels_BCHW,
        block_hidden_BG=patch_hidden_BG,
        image_present_B=present_B,
        text_present_B=present_B,
        counts=counts,
        mean_counts=counts,
        keys=("",) * len(present_B),
        **dict.fromkeys((*texts, *words), nothing),
    )


def features_of(tower: VisionTower, batch: Batch) -> Features:
    states = tower(batch.pixels_BCHW, batch.block_hidden_BG)
    return Features(
        model=SimpleNamespace(vision=tower),
        scale=torch.ones(()),
        **{"image": states, "hidden_image": states, "text": None, "masked_text": None},
        **{"embeddings": None, "everyone": None, "evaluating": False},
    )


def compare(
    reference: nn.Module, spec: VisionSpec, names: dict[str, str], mask_token: str, patch: int
) -> None:
    """Carries weights over, then compares loss and every gradient on equally hidden pictures."""
    torch.manual_seed(0)
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.1)
    tower = VisionTower(spec)
    objective = MaskedImageModelling(tower.width, tower.stride, spec.block, "l1", False)
    weights = dict(reference.named_parameters())
    with torch.no_grad():
        for name, parameter in tower.backbone.named_parameters():
            parameter.copy_(theirs(name, weights, names))
        tower.mask_token.copy_(weights[mask_token].flatten())
        objective.head.weight.copy_(weights["decoder.0.weight"].flatten(1))
        objective.head.bias.copy_(weights["decoder.0.bias"])

    num_blocks = (spec.image_size // spec.block) ** 2
    hidden_BG = torch.rand(2, num_blocks).argsort(dim=1) < 0.6 * num_blocks
    batch = batch_of(spec.image_size, spec.block, hidden_BG)
    loss = objective(features_of(tower, batch), batch, None, None).loss
    loss.backward()
    side, each = spec.image_size // spec.block, spec.block // patch
    hidden_BN = hidden_BG.view(2, side, side).repeat_interleave(each, 1).repeat_interleave(each, 2)
    expected = reference(
        tower.normalise(batch.pixels_BCHW), bool_masked_pos=hidden_BN.flatten(1)
    ).loss
    expected.backward()

    torch.testing.assert_close(loss, expected, **TOLERANCE)
    gradients = {name: parameter.grad for name, parameter in weights.items()}
    for name, parameter in tower.backbone.named_parameters():
        torch.testing.assert_close(
            parameter.grad,
            theirs(name, gradients, names),
            **TOLERANCE,
            msg=lambda m, n=name: f"{n}: {m}",
        )
    torch.testing.assert_close(tower.mask_token.grad, gradients[mask_token].flatten(), **TOLERANCE)
    torch.testing.assert_close(
        objective.head.weight.grad, gradients["decoder.0.weight"].flatten(1), **TOLERANCE
    )


@pytest.mark.parametrize("block", [16, 32])
def test_vit_equals_transformers(block: int) -> None:
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        image_size=64,
        patch_size=16,
        encoder_stride=16,
        layer_norm_eps=1e-6,
    )
    spec = VisionSpec("vit_tiny_patch16_224", 64, block, depth=2, width=32, heads=2)
    compare(ViTForMaskedImageModeling(config), spec, VIT_NAMES, "vit.embeddings.mask_token", 16)


def test_swin_equals_transformers() -> None:
    config = SwinConfig(
        image_size=224,
        embed_dim=12,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        encoder_stride=32,
        drop_path_rate=0.0,
    )
    spec = VisionSpec("swin_tiny_patch4_window7_224", 224, 32, width=12)
    compare(SwinForMaskedImageModeling(config), spec, SWIN_NAMES, "swin.embeddings.mask_token", 4)


def test_absent_pictures_count_for_nothing() -> None:
    torch.manual_seed(0)
    tower = VisionTower(VisionSpec("vit_tiny_patch16_224", 64, 32, depth=1, width=32, heads=2))
    objective = MaskedImageModelling(tower.width, tower.stride, 32, "l1", False)
    batch = batch_of(64, 32, torch.rand(3, 4).argsort(dim=1) < 2)
    alone = replace(
        batch,
        pixels_BCHW=batch.pixels_BCHW[:2],
        block_hidden_BG=batch.block_hidden_BG[:2],
        image_present_B=batch.image_present_B[:2],
    )
    batch = replace(batch, image_present_B=torch.tensor([True, True, False]))
    torch.testing.assert_close(
        objective(features_of(tower, batch), batch, None, None).loss,
        objective(features_of(tower, alone), alone, None, None).loss,
    )
