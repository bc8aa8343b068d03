"""The convolutional stem: shapes, what it sees, where it is refused."""

from dataclasses import replace

import pytest
import torch

from vlpretrain.errors import UserError
from vlpretrain.models.spec import VisionSpec
from vlpretrain.models.stem import conv_stem
from vlpretrain.models.vision import VisionTower

SPEC = VisionSpec(
    "vit_tiny_patch16_224", 64, depth=2, width=48, heads=3, patch=8, block=8, stem="conv"
)


@pytest.mark.parametrize("patch", [2, 8, 16])
def test_a_token_for_every_patch(patch):
    stem = conv_stem(channels=3, width=24, patch=patch)
    assert stem(torch.randn(2, 3, 64, 32)).shape == (2, 24, 64 // patch, 32 // patch)


def test_hidden_blocks_are_seen_by_nobody():
    torch.manual_seed(0)
    tower = VisionTower(SPEC).eval()
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    hidden_BG = torch.zeros(1, 64, dtype=torch.bool)
    hidden_BG[0, 27] = True  # row 3, column 3 of 8 x 8
    other = pixels.clone()
    other[..., 24:32, 24:32] = 255 - other[..., 24:32, 24:32]
    with torch.no_grad():
        ours, theirs = tower(pixels, hidden_BG), tower(other, hidden_BG)
        torch.testing.assert_close(ours.token_BND, theirs.token_BND)
        assert not torch.allclose(tower(pixels).token_BND, tower(other).token_BND, atol=1e-3)


def test_visible_patches_alone_can_be_encoded():
    tower = VisionTower(SPEC).eval()
    hidden_BG = torch.arange(64).lt(48).expand(2, 64)
    pixels = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    states = tower(pixels, hidden_BG, visible_only=True)
    assert states.token_BND.shape == (2, 1 + 16, 48)
    assert states.patch_index_BN[0].tolist() == list(range(48, 64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "convnext_atto", "depth": 0, "width": 0, "heads": 0, "patch": 0}, "of its own"),
        ({"weights": "somewhere.safetensors"}, "know no convolutional stem"),
        ({"patch": 12, "image_size": 48, "block": 12}, "no power of two"),
    ],
)
def test_where_it_has_no_place_it_is_refused(changes, message, tmp_path):
    if "weights" in changes:
        plain = VisionTower(replace(SPEC, stem="own"))
        torch.save(plain.backbone.state_dict(), tmp_path / "plain.pt")
        changes = {"weights": str(tmp_path / "plain.pt")}
    with pytest.raises(UserError, match=message) as refused:
        VisionTower(replace(SPEC, **changes))
    assert refused.value.where.startswith("model.vision.")
