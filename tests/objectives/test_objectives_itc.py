"""Contrast: open_clip's loss, one big batch's gradients in parts, and rows that take no part."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from torch import Tensor

from vlpretrain.objectives.itc import Temperature, contrastive_loss, part_loss
from vlpretrain.types import Embeddings, GlobalEmbeddings

WIDTH = 16


def rows_of(size: int, dtype: torch.dtype = torch.float32) -> GlobalEmbeddings:
    generator = torch.Generator().manual_seed(size)
    image_BE, text_BE = torch.randn(2, size, WIDTH, generator=generator, dtype=dtype)
    return GlobalEmbeddings(
        image_BE=F.normalize(image_BE, dim=-1),
        text_BE=F.normalize(text_BE, dim=-1),
        pair_valid_B=torch.ones(size, dtype=torch.bool),
        image_id_B=torch.arange(size),
        text_id_B=torch.arange(size),
        start=0,
        num_parts=1,
    )


def keep(rows: GlobalEmbeddings, index_B: Tensor) -> GlobalEmbeddings:
    return GlobalEmbeddings(
        rows.image_BE[index_B],
        rows.text_BE[index_B],
        rows.pair_valid_B[index_B],
        rows.image_id_B[index_B],
        rows.text_id_B[index_B],
        start=0,
        num_parts=1,
    )


def one_batch_gradients(rows: GlobalEmbeddings, scale: Tensor) -> list[Tensor]:
    image_BE = rows.image_BE.clone().requires_grad_()
    text_BE = rows.text_BE.clone().requires_grad_()
    scale = scale.clone().requires_grad_()
    loss = contrastive_loss(replace(rows, image_BE=image_BE, text_BE=text_BE), scale)
    return [loss.detach(), *torch.autograd.grad(loss, [image_BE, text_BE, scale])]


def averaged_part_gradients(rows: GlobalEmbeddings, scale: Tensor, parts: int) -> list[Tensor]:
    """What a parameter behind all rows gets when gradients are averaged over the parts."""
    size = len(rows.image_BE) // parts
    image_BE = rows.image_BE.clone().requires_grad_()
    text_BE = rows.text_BE.clone().requires_grad_()
    scale = scale.clone().requires_grad_()
    losses = []
    for part in range(parts):
        own = slice(part * size, (part + 1) * size)
        live = Embeddings(
            image_BE[own],
            text_BE[own],
            rows.pair_valid_B[own],
            rows.image_id_B[own],
            rows.text_id_B[own],
        )
        others = replace(rows, start=part * size, num_parts=parts)
        losses.append(part_loss(live, others, scale))
    assert all(loss.item() == pytest.approx(losses[0].item(), rel=1e-6) for loss in losses)
    mean = torch.stack(losses).mean()
    return [mean.detach(), *torch.autograd.grad(mean, [image_BE, text_BE, scale])]


def test_equals_open_clips_loss_where_all_are_distinct_pairs() -> None:
    rows, scale = rows_of(24), torch.tensor(14.0)
    expected = ClipLoss()(rows.image_BE, rows.text_BE, scale)
    torch.testing.assert_close(contrastive_loss(rows, scale), expected, rtol=1e-6, atol=1e-6)


def test_gradients_in_two_parts_equal_open_clips_of_one_batch() -> None:
    rows, scale = rows_of(12), torch.tensor(20.0)
    image_BE = rows.image_BE.clone().requires_grad_()
    text_BE = rows.text_BE.clone().requires_grad_()
    live_scale = scale.clone().requires_grad_()
    loss = ClipLoss()(image_BE, text_BE, live_scale)
    expected = [loss.detach(), *torch.autograd.grad(loss, [image_BE, text_BE, live_scale])]
    for got, want in zip(averaged_part_gradients(rows, scale, 2), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_average_to_the_one_batchs_gradient(parts: int) -> None:
    rows, scale = rows_of(16), torch.tensor(30.0)
    valid_B = torch.ones(16, dtype=torch.bool)
    valid_B[[2, 9]] = False
    image_id_B = rows.image_id_B.clone()
    image_id_B[11] = 0
    rows = replace(rows, pair_valid_B=valid_B, image_id_B=image_id_B)
    want = one_batch_gradients(rows, scale)
    for got, expected in zip(averaged_part_gradients(rows, scale, parts), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_rows_that_are_no_pair_are_as_if_absent() -> None:
    rows, scale = rows_of(10), torch.tensor(10.0)
    valid_B = torch.ones(10, dtype=torch.bool)
    valid_B[[0, 4, 7]] = False
    without = contrastive_loss(keep(rows, valid_B.nonzero().squeeze(1)), scale)
    torch.testing.assert_close(
        contrastive_loss(replace(rows, pair_valid_B=valid_B), scale), without
    )
    gradients = one_batch_gradients(replace(rows, pair_valid_B=valid_B), scale)
    assert gradients[1][~valid_B].abs().max() == 0
    assert gradients[2][~valid_B].abs().max() == 0


@pytest.mark.parametrize("field", ["image_id_B", "text_id_B"])
def test_duplicates_are_not_each_others_negatives(field: str) -> None:
    rows, scale = rows_of(3), torch.tensor(10.0)
    rows = replace(rows, **{field: torch.tensor([5, 5, 6])})
    logits_BB = scale * rows.image_BE @ rows.text_BE.T
    logits_BB[0, 1] = logits_BB[1, 0] = -math.inf
    target_B = torch.arange(3)
    expected = F.cross_entropy(logits_BB, target_B) + F.cross_entropy(logits_BB.T, target_B)
    torch.testing.assert_close(contrastive_loss(rows, scale), expected / 2)


def test_no_pair_at_all_is_a_loss_of_zero_with_finite_gradients() -> None:
    rows = replace(rows_of(4), pair_valid_B=torch.zeros(4, dtype=torch.bool))
    for value in one_batch_gradients(rows, torch.tensor(10.0)):
        assert value.abs().max() == 0


def test_scale_starts_at_the_inverse_temperature_and_never_passes_100() -> None:
    temperature = Temperature(0.07)
    assert temperature().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        temperature.log_scale.fill_(10.0)
    assert temperature().item() == pytest.approx(100.0)


def test_at_its_ceiling_the_scale_can_still_fall_but_not_rise() -> None:
    temperature = Temperature(0.005)
    (falls,) = torch.autograd.grad(temperature(), temperature.log_scale)
    (rises,) = torch.autograd.grad(-temperature(), temperature.log_scale)
    assert falls == pytest.approx(100.0)
    assert rises == 0
