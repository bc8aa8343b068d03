"""Attention: the written-out form equals torch's."""

import pytest
import torch

from vlpretrain.models.attention import attend, merge_heads, prefers_plain, split_heads


def test_plain_and_fused_attention_agree_in_value_and_gradient():
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, n, 8, requires_grad=True) for n in (4, 6, 6))
    valid_GN = torch.arange(6) < torch.tensor([[6], [1], [4]])
    results = []
    for plain in (True, False):
        mixed = attend(query, key, value, valid_GN, plain=plain)
        results.append((mixed, *torch.autograd.grad(mixed.sin().sum(), (query, key, value))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_keys_that_are_not_valid_do_not_matter():
    query, key, value = torch.randn(1, 1, 2, 4), torch.randn(1, 1, 5, 4), torch.randn(1, 1, 5, 4)
    valid_GN = torch.tensor([[True, True, False, True, False]])
    mixed = attend(query, key, value, valid_GN, plain=True)
    key[:, :, ~valid_GN[0]] = 99.0
    torch.testing.assert_close(mixed, attend(query, key, value, valid_GN, plain=True))


def test_heads_are_split_and_merged_back():
    rows_GND = torch.randn(2, 5, 12)
    assert split_heads(rows_GND, 3).shape == (2, 3, 5, 4)
    torch.testing.assert_close(merge_heads(split_heads(rows_GND, 3)), rows_GND)


@pytest.mark.parametrize(
    ("training", "device", "plain"),
    [(True, "cpu", True), (False, "cpu", False), (True, "cuda", False)],
)
def test_attention_is_written_out_where_a_cpu_trains(training, device, plain):
    assert prefers_plain(training, torch.device(device)) is plain


@pytest.mark.parametrize("trainable", [True, False])
def test_kept_weights_are_those_that_mix_and_have_a_gradient(trainable):
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, n, 8, requires_grad=trainable) for n in (4, 6, 6))
    valid_GN = torch.arange(6) < torch.tensor([[6], [1], [4]])
    kept: list[torch.Tensor] = []
    mixed = attend(query, key, value, valid_GN, kept=kept)
    torch.testing.assert_close(mixed, attend(query, key, value, valid_GN))
    (weight_GHQN,) = kept
    torch.testing.assert_close(weight_GHQN.sum(-1), torch.ones(3, 2, 4))
    torch.testing.assert_close(weight_GHQN @ value, mixed)
    (gradient_GHQN,) = torch.autograd.grad(mixed.sin().sum(), kept)
    torch.testing.assert_close(gradient_GHQN, mixed.cos() @ value.transpose(-1, -2))
