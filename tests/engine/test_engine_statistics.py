"""Batch norm over ranks: one set of running statistics."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from vlpretrain.engine.statistics import agree_on_statistics

RANKS = 2


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False))


def picture_of(rank: int) -> torch.Tensor:
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(rank)) + rank


def check_rank(rank: int, store: str) -> None:
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=RANKS)
    each = []
    for one in range(RANKS):
        seen = network().train()
        seen(picture_of(one))
        each.append(seen[1].running_mean)
    ours = network().train()
    ours(picture_of(rank))
    assert not torch.allclose(each[0], each[1])
    agree_on_statistics(ours)
    torch.testing.assert_close(ours[1].running_mean, (each[0] + each[1]) / 2)
    dist.destroy_process_group()


def test_every_rank_gets_the_mean_over_ranks(tmp_path: Path) -> None:
    mp.spawn(check_rank, args=(str(tmp_path / "store"),), nprocs=RANKS)


def test_in_one_process_nothing_changes() -> None:
    alone = network().train()
    alone(picture_of(0))
    before = {name: tensor.clone() for name, tensor in alone.state_dict().items()}
    agree_on_statistics(alone)
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
