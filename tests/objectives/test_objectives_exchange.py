"""Rows that travel between ranks, and their gradients back."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vlpretrain.distributed import ExchangePlan, exchange_rows, max_over_ranks, plan_exchanges

RANKS, ROWS = 2, 3
# For each rank two lists of wanted rows: own, foreign, repeated; the last asks one rank for all.
WANTED = (((0, 4, 4), (5, 3, 5)), ((3, 0, 1), (4, 4, 3)))


def all_rows(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(RANKS * ROWS * 2, dtype=torch.float32).view(-1, 2).to(dtype)


def check_rank(rank: int, init_file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{init_file}", rank=rank, world_size=RANKS)
    own = slice(rank * ROWS, (rank + 1) * ROWS)
    plans = plan_exchanges([torch.tensor(w) for w in WANTED[rank]], rows_a_rank=ROWS)
    for wanted, plan in zip(WANTED[rank], plans, strict=True):
        for dtype in (torch.float32, torch.bfloat16, torch.int64):
            rows = all_rows(dtype)
            assert torch.equal(exchange_rows(rows[own], plan), rows[list(wanted)])
        flag = all_rows(torch.int64)[:, 0] % 4 == 0
        assert torch.equal(exchange_rows(flag[own], plan), flag[list(wanted)])
    check_gradient(rank, plans[0])
    assert max_over_ranks(7 - rank, torch.device("cpu")) == 7
    dist.destroy_process_group()


def check_gradient(rank: int, plan: ExchangePlan) -> None:
    """A row's gradient is the sum over all who asked for it, each weighted by rank and place."""
    live = all_rows(torch.float32)[rank * ROWS : (rank + 1) * ROWS].requires_grad_()
    weight = torch.tensor([1.0, 2.0, 4.0])[:, None] * 10.0**rank
    (exchange_rows(live, plan) * weight).sum().backward()
    expected = torch.zeros(RANKS * ROWS)
    for asking, lists in enumerate(WANTED):
        for place, row in enumerate(lists[0]):
            expected[row] += 2.0**place * 10.0**asking
    expected = expected[rank * ROWS : (rank + 1) * ROWS, None].expand(-1, 2)
    assert torch.equal(live.grad, expected)


@pytest.mark.distributed
def test_two_ranks_get_the_rows_they_asked_for(tmp_path: Path) -> None:
    mp.spawn(check_rank, args=(str(tmp_path / "store"),), nprocs=RANKS)


def test_alone_it_is_indexing_with_its_gradient() -> None:
    rows = torch.randn(4, 3, requires_grad=True)
    (plan,) = plan_exchanges([torch.tensor([2, 2, 0])], rows_a_rank=4)
    got = exchange_rows(rows, plan)
    assert torch.equal(got, rows[[2, 2, 0]])
    got.sum().backward()
    assert torch.equal(rows.grad[:, 0], torch.tensor([1.0, 0.0, 2.0, 0.0]))


def test_one_rank_can_be_asked_for_nothing() -> None:
    (plan,) = plan_exchanges([torch.empty(0, dtype=torch.int64)], rows_a_rank=4)
    assert exchange_rows(torch.ones(4, 3), plan).shape == (0, 3)
