"""Layouts: rows without padding, grids of groups."""

import pytest
import torch

from vlpretrain.models.layout import FusionPairs, Slots, lay_out, packed_layout


def test_unpad_undoes_pad_and_the_empty_slots_are_zero():
    rows_SD = torch.randn(4, 3)
    slots = Slots(torch.tensor([5, 0, 2, 3]), num_groups=2, size=3)
    grid_GQD = slots.pad(rows_SD)
    torch.testing.assert_close(slots.unpad(grid_GQD), rows_SD)
    assert grid_GQD.view(6, 3)[[1, 4]].eq(0).all()


def test_gradients_of_pad_and_unpad():
    rows_SD = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    grid_GQD = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    slots = Slots(torch.tensor([5, 0, 2, 3]), num_groups=2, size=3)
    assert torch.autograd.gradcheck(slots.pad, rows_SD)
    assert torch.autograd.gradcheck(slots.unpad, grid_GQD)


def test_a_cpu_has_one_row_a_valid_token_and_one_group_a_picture():
    valid_RT = torch.tensor([[True, True, False], [True, True, True]])
    pairs = FusionPairs(torch.tensor([0, 1, 0]), torch.tensor([1, 0, 1]), torch.tensor([0, 3, 6]))
    layout = lay_out(valid_RT, pairs, num_images=2)
    assert len(layout.text_index_S) == 2 + 3 + 2
    assert layout.rows.image.num_groups == 2
    assert layout.rows.image.size == 4  # two texts of two tokens meet picture 1
    assert len(layout.rows.image.index_S.unique()) == 7


def test_reading_padding_is_an_error():
    valid_RT = torch.tensor([[True, False]])
    pairs = FusionPairs(torch.tensor([0]), torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(ValueError, match="padding"):
        packed_layout(valid_RT, pairs, num_images=1)
