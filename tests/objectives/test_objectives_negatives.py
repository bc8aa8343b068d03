"""Negatives: never a duplicate, drawn in proportion, the same however many ranks share the rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlpretrain.objectives.negatives import allowed_negatives, draw, keyed_uniform


@settings(deadline=None, max_examples=60)
@given(
    image_ids=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    text_seed=st.integers(0, 2**31),
    seed=st.integers(0, 2**63 - 1),
    lead=st.sampled_from([0.0, 1.0, 200.0]),
)
def test_never_the_same_picture_or_text(
    image_ids: list[int], text_seed: int, seed: int, lead: float
) -> None:
    size = len(image_ids)
    generator = torch.Generator().manual_seed(text_seed)
    image_id_B = torch.tensor(image_ids)
    text_id_B = torch.randint(0, 5, (size,), generator=generator)
    score_BB = torch.randn(size, size, generator=generator) + lead * torch.eye(size)
    row_B = torch.arange(size)
    allowed_BB = allowed_negatives(image_id_B, text_id_B, image_id_B, text_id_B)
    choice = draw(score_BB, allowed_BB, keyed_uniform(seed, row_B, row_B))
    found_B = choice.found_B
    assert torch.equal(found_B, allowed_BB.any(1))
    assert (image_id_B[choice.index_B] != image_id_B)[found_B].all()
    assert (text_id_B[choice.index_B] != text_id_B)[found_B].all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_positive_that_leads_by_200_logits_changes_no_draw(dtype: torch.dtype) -> None:
    score_BB = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    row_B = torch.arange(8)
    allowed_BB = row_B[:, None] != row_B
    noise_BB = keyed_uniform(3, row_B, row_B)
    led_BB = torch.where(allowed_BB, score_BB, score_BB + 200)
    assert torch.equal(
        draw(led_BB, allowed_BB, noise_BB).index_B, draw(score_BB, allowed_BB, noise_BB).index_B
    )


def test_draws_follow_the_softmax_of_the_scores() -> None:
    score_C = torch.tensor([0.0, 1.0, 2.0, -1.0, 5.0])
    allowed_C = torch.tensor([True, True, True, True, False])
    rows = 40_000
    noise_BC = keyed_uniform(11, torch.arange(rows), torch.arange(5))
    choice = draw(score_C.expand(rows, 5), allowed_C.expand(rows, 5), noise_BC)
    share_C = torch.bincount(choice.index_B, minlength=5) / rows
    expected_C = score_C.masked_fill(~allowed_C, -torch.inf).softmax(0)
    torch.testing.assert_close(share_C, expected_C, atol=0.01, rtol=0)


def test_noise_is_even_and_open_at_both_ends() -> None:
    noise_BC = keyed_uniform(5, torch.arange(1000), torch.arange(1000))
    assert 0 < noise_BC.min() < 1e-5
    assert 1 - 1e-5 < noise_BC.max() < 1
    decile = torch.histc(noise_BC, bins=10, min=0, max=1) / noise_BC.numel()
    torch.testing.assert_close(decile, torch.full((10,), 0.1), atol=0.002, rtol=0)


def test_noise_of_a_rank_is_its_slice_of_the_micro_steps() -> None:
    row_B = torch.arange(12)
    whole_BC = keyed_uniform(2**62 + 7, row_B, row_B)
    assert torch.equal(keyed_uniform(2**62 + 7, row_B[4:8], row_B), whole_BC[4:8])
    assert not torch.equal(keyed_uniform(2**62 + 8, row_B, row_B), whole_BC)
    assert not torch.equal(keyed_uniform(7, row_B, row_B), whole_BC)


def test_neighbouring_seeds_and_rows_share_no_noise() -> None:
    """Row r of one seed must not be row r + 1 of the next: a row's two draws would be coupled."""
    row_B = torch.arange(64)
    both_BC = torch.cat([keyed_uniform(20, row_B, row_B), keyed_uniform(21, row_B, row_B)])
    correlation_BB = torch.corrcoef(both_BC) - torch.eye(128)
    assert correlation_BB.abs().max() < 0.6
