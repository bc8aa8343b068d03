"""Rows over ranks. Every function also works in one process without a process group.

Imports nothing of ours. Shapes: B rows of a rank, W ranks.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    return rank() == 0


def all_gather_rows(rows: Tensor) -> Tensor:
    """Rows [B, ...] of every rank, in rank order: [W * B, ...]. No gradient; equal B everywhere."""
    if world_size() == 1:
        return rows.detach()
    rows = rows.detach().contiguous()
    wire = rows.to(torch.uint8) if rows.dtype == torch.bool else rows
    parts = [torch.empty_like(wire) for _ in range(world_size())]
    dist.all_gather(parts, wire)
    return torch.cat(parts).to(rows.dtype)


def all_mean(value: Tensor) -> Tensor:
    """The mean over ranks, on every rank; no gradient."""
    if world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()
