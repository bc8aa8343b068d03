"""Attention over padded groups.

Shapes: G groups, H heads, Q queries, N keys, d width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def prefers_plain(training: bool, device: torch.device) -> bool:
    """True where attention is faster written out.

    On a CPU the backward pass of bf16 `scaled_dot_product_attention` takes 3 to 6 times as long.
    """
    return training and device.type == "cpu"


def attend(
    query_GHQd: Tensor,
    key_GHNd: Tensor,
    value_GHNd: Tensor,
    key_valid_GN: Tensor | None = None,
    plain: bool = False,
    dropout: float = 0.0,
    seen_QN: Tensor | None = None,
    kept: list[Tensor] | None = None,
) -> Tensor:
    """Softmax attention (Vaswani et al. 2017), [G, H, Q, d].

    Keys where `key_valid_GN` is False are not seen, nor those of which `seen_QN` says so to a query
    of whatever group; every query must see a key. `dropout` is the share of weights that are set
    to 0. `kept` takes the weights [G, H, Q, N] before that, each query's adding up to 1, for
    `torch.autograd.grad`; attention is then written out.
    """
    seen = _seen(key_valid_GN, seen_QN)
    if not plain and kept is None:
        return F.scaled_dot_product_attention(
            query_GHQd, key_GHNd, value_GHNd, attn_mask=seen, dropout_p=dropout
        )
    logits_GHQN = (query_GHQd * query_GHQd.shape[-1] ** -0.5) @ key_GHNd.transpose(-1, -2)
    if seen is not None:
        logits_GHQN = logits_GHQN.masked_fill(~seen, -torch.inf)
    weight_GHQN = logits_GHQN.softmax(dim=-1)
    if kept is not None:
        # Without any trainable parameter before them, the weights have no gradient by themselves.
        kept.append(weight_GHQN.requires_grad_())
    if dropout:
        weight_GHQN = F.dropout(weight_GHQN, dropout)
    return weight_GHQN @ value_GHNd


def _seen(key_valid_GN: Tensor | None, seen_QN: Tensor | None) -> Tensor | None:
    """Both masks as one that spreads over [G, H, Q, N]; None: every key is seen."""
    if key_valid_GN is None:
        return seen_QN
    valid_G11N = key_valid_GN[:, None, None, :]
    return valid_G11N if seen_QN is None else valid_G11N & seen_QN


def split_heads(rows_GND: Tensor, num_heads: int) -> Tensor:
    """[G, N, H * d] to [G, H, N, d]."""
    return rows_GND.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(rows_GHNd: Tensor) -> Tensor:
    """[G, H, N, d] to [G, N, H * d]."""
    return rows_GHNd.transpose(1, 2).flatten(2)
