"""Conditional positions: local, copied with the model, refused where they have no place."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from vlpretrain.errors import UserError
from vlpretrain.models.position import ConditionalPosition
from vlpretrain.models.spec import VisionSpec
from vlpretrain.models.vision import VisionTower

SPEC = VisionSpec(
    "vit_tiny_patch16_224", 64, depth=2, width=48, heads=3, patch=8, block=8, position="conditional"
)


@pytest.fixture
def pixels() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)


def test_a_patch_hears_of_its_neighbours_alone():
    position = ConditionalPosition(width=4, grid=(5, 5), num_prefix=1)
    token_BND = torch.zeros(1, 26, 4)
    before = position(token_BND)
    token_BND[0, 1 + 2 * 5 + 2] = 1.0  # row 2, column 2
    moved = (position(token_BND) - before)[0].abs().sum(-1) > 1e-7
    assert not moved[0]  # the class token
    rows, columns = moved[1:].view(5, 5).nonzero().unbind(1)
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {
        (row, column) for row in (1, 2, 3) for column in (1, 2, 3)
    }


def test_it_is_part_of_the_tower_and_keeps_the_backbone_s_names(pixels):
    tower = VisionTower(SPEC).eval()
    plain = VisionTower(replace(SPEC, position="own"))
    added = set(tower.state_dict()) - set(plain.state_dict())
    assert added == {"position.neighbours.weight", "position.neighbours.bias"}
    with torch.no_grad():
        before = tower(pixels).token_BND
        tower.position.neighbours.weight.zero_()
        assert not torch.allclose(tower(pixels).token_BND, before, atol=1e-3)


def test_a_copy_uses_its_own_weights(pixels):
    tower = VisionTower(SPEC).eval()
    copy = deepcopy(tower)
    with torch.no_grad():
        before = copy(pixels).token_BND
        tower.position.neighbours.weight.add_(1.0)
        torch.testing.assert_close(copy(pixels).token_BND, before)


def test_where_it_has_no_place_it_is_refused(pixels):
    with pytest.raises(UserError, match="no place for conditional positions"):
        VisionTower(replace(SPEC, name="convnext_atto", depth=0, width=0, heads=0, patch=0))
    hidden_BG = torch.zeros(2, 64, dtype=torch.bool)
    with pytest.raises(UserError, match="cannot leave patches out"):
        VisionTower(SPEC)(pixels, hidden_BG, visible_only=True)
