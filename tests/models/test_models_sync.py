"""On a GPU the host never waits: no shape and no branch depends on what a tensor holds.

Fake tensors stand in for the GPU's: they have shapes but no values, and raise where one is asked
for.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from vlpretrain.models import fusion as fusion_module
from vlpretrain.models import text as text_module
from vlpretrain.models.fusion import FUSIONS, Fusion, FusionPairs
from vlpretrain.models.layout import packed_layout, padded_layout
from vlpretrain.models.spec import FusionSpec, TextSpec, VisionSpec
from vlpretrain.models.text import TextTower
from vlpretrain.models.vision import VisionTower


@pytest.fixture
def fake() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=True)


def fuse(kind: str, fake: FakeTensorMode) -> torch.Size:
    fusion = Fusion(FusionSpec(kind, 2, 16, 2), 24, 16)
    with fake:
        row_P = torch.arange(3)
        pairs = FusionPairs(row_P, row_P, row_P * 5)
        valid_RT = torch.ones(3, 5, dtype=torch.bool)
        return fusion(torch.randn(3, 7, 24), torch.randn(3, 5, 16), valid_RT, pairs).shape


@pytest.mark.parametrize("kind", sorted(FUSIONS))
def test_fusion_in_the_padded_layout(kind, fake, monkeypatch):
    monkeypatch.setattr(fusion_module, "lay_out", lambda v, pairs, _: padded_layout(v, pairs))
    assert fuse(kind, fake) == (3, 16)


def test_the_packed_layout_would_wait(fake, monkeypatch):
    monkeypatch.setattr(fusion_module, "lay_out", packed_layout)
    with pytest.raises(DynamicOutputShapeException):
        fuse("cross", fake)


def test_text_tower_without_packing(fake, monkeypatch):
    monkeypatch.setattr(text_module, "packs_rows", lambda device: False)
    tower = TextTower(TextSpec(vocab_size=50, depth=1, width=32, heads=2)).eval()
    tower(torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool))
    with fake:
        text_BT, valid_BT = torch.zeros(3, 5, dtype=torch.int64), torch.ones(3, 5) > 0
        assert tower(text_BT, valid_BT).token_BTD.shape == (3, 5, 32)


@pytest.mark.parametrize("visible_only", [True, False])
def test_vision_tower(fake, visible_only):
    spec = VisionSpec("vit_tiny_patch16_224", 64, depth=1, width=48, heads=3)
    tower = VisionTower(spec).eval()
    pixels_BCHW = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    tower(pixels_BCHW)  # keeps the constants of the normalisation
    with fake:
        states = tower(
            torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
            torch.ones(2, 4) > 0,
            visible_only,
            num_visible=3,
        )
        assert states.token_BND.shape == (2, 1 + (12 if visible_only else 16), 48)
