"""The image tower: shapes, hidden patches, visible patches, refusals."""

from copy import deepcopy
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from vlpretrain.errors import UserError
from vlpretrain.models.spec import VisionSpec
from vlpretrain.models.vision import VisionTower, expand_blocks, visible_index

SIZE = 64
VIT = VisionSpec("vit_tiny_patch16_224", SIZE, depth=2, width=48, heads=3)
SWIN = VisionSpec("swin_tiny_patch4_window7_224", SIZE)
CONVNEXT = VisionSpec("convnext_atto", SIZE)
RESNET = VisionSpec("resnet10t", SIZE)
HIDDEN_BG = torch.tensor([[True, False, False, True], [False, True, False, True]])


@pytest.fixture
def pixels() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)


def tower_of(spec: VisionSpec) -> VisionTower:
    torch.manual_seed(0)
    return VisionTower(spec).eval()


@pytest.mark.parametrize(
    ("spec", "side", "prefix", "visible"),
    [(VIT, 4, 1, True), (SWIN, 2, 0, False), (CONVNEXT, 2, 0, False), (RESNET, 2, 0, False)],
    ids=lambda value: value.name if isinstance(value, VisionSpec) else str(value),
)
def test_hidden_pixels_do_not_reach_the_tokens(spec, side, prefix, visible, pixels):
    tower = tower_of(spec)
    states = tower(pixels, HIDDEN_BG)
    assert states.token_BND.shape == (2, prefix + side * side, tower.width)
    assert states.pooled_BD.shape == (2, tower.width)
    assert tower.grid == (side, side)
    assert tower.supports_visible is visible

    changed = pixels.clone()
    changed[0, :, :32, :32] = 7  # block 0 of picture 0 is hidden
    torch.testing.assert_close(tower(changed, HIDDEN_BG).token_BND, states.token_BND)
    changed[0, :, :32, 32:] = 7  # block 1 is not
    assert not torch.allclose(tower(changed, HIDDEN_BG).token_BND, states.token_BND, atol=1e-2)


@pytest.mark.parametrize("spec", [VIT, SWIN, CONVNEXT], ids=lambda spec: spec.name)
def test_without_a_mask_the_tower_is_the_library_s_model(spec, pixels):
    tower = tower_of(spec)
    tower(pixels, HIDDEN_BG)  # leaves no trace
    picture = tower.normalise(pixels)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (tower.image_mean, tower.image_std))
    torch.testing.assert_close(picture, (pixels / 255 - mean) / std)
    features = tower.backbone(picture)
    if spec is SWIN:
        features = features.flatten(1, 2)
    if spec is CONVNEXT:
        features = features.flatten(2).transpose(1, 2)
    torch.testing.assert_close(tower(pixels).token_BND, features)


def test_the_mask_token_is_learned_through_the_hidden_patches_alone(pixels):
    tower = tower_of(VIT)
    tower(pixels).token_BND.sin().sum().backward()
    assert tower.mask_token.grad is None
    tower(pixels, HIDDEN_BG).token_BND.sin().sum().backward()
    assert tower.mask_token.grad.abs().sum() > 0


def test_visible_only_equals_the_blocks_run_on_the_visible_tokens(pixels):
    tower = tower_of(VIT)
    states = tower(pixels, HIDDEN_BG, visible_only=True)
    vit = tower.backbone
    hidden_BN = expand_blocks(HIDDEN_BG, 4)
    embedded = vit._pos_embed(vit.patch_embed(tower.normalise(pixels)))
    for row in range(2):
        kept = (~hidden_BN[row]).nonzero().squeeze(1)
        tokens = torch.cat([embedded[row, :1], embedded[row, 1:][kept]]).unsqueeze(0)
        expected = vit.norm(vit.blocks(tokens))[0]
        torch.testing.assert_close(states.token_BND[row], expected)
        assert states.patch_index_BN[row].tolist() == kept.tolist()
    assert tower(pixels).patch_index_BN is None


def test_the_number_of_visible_blocks_can_be_said_instead_of_counted(pixels):
    tower = tower_of(VIT)
    counted = tower(pixels, HIDDEN_BG, visible_only=True)
    said = tower(pixels, HIDDEN_BG, visible_only=True, num_visible=2)
    torch.testing.assert_close(said.token_BND, counted.token_BND)


def test_a_tower_that_cannot_leave_patches_out_says_so(pixels):
    with pytest.raises(UserError, match="cannot leave patches out"):
        tower_of(SWIN)(pixels, HIDDEN_BG, visible_only=True)


def test_blocks_expand_row_by_row():
    expanded = expand_blocks(torch.tensor([[True, False, False, True]]), 4).view(4, 4)
    assert expanded.int().tolist() == [[1, 1, 0, 0]] * 2 + [[0, 0, 1, 1]] * 2
    assert visible_index(expanded.view(1, -1), 3).tolist() == [[2, 3, 6]]


def test_training_and_evaluation_attention_agree(pixels):
    tower = tower_of(VIT)
    evaluated = tower(pixels).token_BND
    torch.testing.assert_close(tower.train()(pixels).token_BND, evaluated)


def test_checkpointing_changes_no_gradient(pixels):
    tower = tower_of(VIT).train()

    def gradients() -> list[torch.Tensor]:
        loss = tower(pixels, HIDDEN_BG).token_BND.sin().sum()
        return list(torch.autograd.grad(loss, list(tower.parameters())))

    plain = gradients()
    tower.set_checkpointing(True)
    for ours, theirs in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_tower_computes_in_the_precision_of_its_weights(pixels):
    tower = tower_of(VIT).to(torch.bfloat16)
    assert tower(pixels, HIDDEN_BG).token_BND.dtype == torch.bfloat16


def test_a_local_file_s_weights_are_taken_and_positions_resampled(tmp_path, pixels):
    torch.manual_seed(5)
    sizes = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    larger = timm.create_model("vit_tiny_patch16_224", num_classes=9, img_size=96, **sizes)
    save_file(larger.state_dict(), tmp_path / "model.safetensors")
    spec = replace(VIT, image_size=96, weights=str(tmp_path))
    same_size = VisionTower(spec)
    torch.testing.assert_close(same_size.backbone.pos_embed, larger.pos_embed)
    assert same_size.weight_report.missing == ()
    assert same_size.weight_report.unexpected == ("head.bias", "head.weight")

    smaller = VisionTower(replace(spec, image_size=SIZE))
    assert smaller.backbone.pos_embed.shape == (1, 17, 48)
    assert smaller.weight_report.mismatched == ()
    torch.testing.assert_close(
        smaller.backbone.blocks[0].attn.qkv.weight, larger.blocks[0].attn.qkv.weight
    )


@pytest.mark.parametrize(
    ("spec", "message", "fix"),
    [
        (VisionSpec("vit_tny_patch16_224"), "vit_tny_patch16_224", "vit_tiny_patch16_224"),
        (VisionSpec("open_clip:ViT-B-33"), "ViT-B-33", "ViT-B-32"),
        (VisionSpec("vit_tiny_patch16_224", 100), "16 px does not divide a picture of 100", "128"),
        (VisionSpec("vit_tiny_patch16_224", 240, block=24), "24 px is no multiple", "32"),
        (VisionSpec("vit_tiny_patch16_224", 80), "mask block of 32 px", "96"),
        (VisionSpec("convnext_atto", 64, width=48), "embed_dim", "are for a ViT"),
        (VisionSpec("vit_tiny_patch16_224", 64, width=50), "divisible", "heads must divide"),
        (VisionSpec("convnext_atto", 64, weights="/nowhere"), "no such file", "path"),
    ],
)
def test_impossible_towers_are_refused_with_a_way_out(spec, message, fix):
    with pytest.raises(UserError, match=message) as error:
        VisionTower(spec)
    assert fix in error.value.fix


def test_a_copy_of_a_tower_masks_with_its_own_token(pixels):
    tower = tower_of(VIT)
    before = tower(pixels, HIDDEN_BG).token_BND
    copy = deepcopy(tower)
    torch.nn.init.ones_(copy.mask_token)
    torch.testing.assert_close(tower(pixels, HIDDEN_BG).token_BND, before)
    assert not torch.allclose(copy(pixels, HIDDEN_BG).token_BND, before, atol=1e-2)
