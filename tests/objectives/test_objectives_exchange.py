"""Rows that travel between ranks, and their gradients back."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_pretrain import make_batch, split, tiny_task

from vlpretrain.config.schema import ItmConfig
from vlpretrain.distributed import (
    ExchangePlan,
    all_mean,
    exchange_rows,
    max_over_ranks,
    plan_exchanges,
)
from vlpretrain.objectives.pretrain import PretrainTask
from vlpretrain.types import Batch

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
    check_task(rank)


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


def check_task(rank: int) -> None:
    """Two ranks of 4 rows have the loss and the gradients of one process with 8.

    Negatives over all ranks, texts of other lengths on each rank.
    """
    task, whole, parts = matching_task(), *unequal_batches()
    output = task(parts[rank])
    output.loss.backward()
    metrics = {name: all_mean(value) for name, value in output.metrics.items()}
    averaged = {name: all_mean(p.grad) for name, p in task.named_parameters()}
    dist.destroy_process_group()

    alone = matching_task()
    expected = alone(whole)
    expected.loss.backward()
    for name, value in expected.metrics.items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-5, atol=1e-6)
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(averaged[name], parameter.grad, rtol=2e-5, atol=2e-6)


def matching_task() -> PretrainTask:
    return tiny_task(itm=ItmConfig(negatives="global", hard_from=0.0))


def unequal_batches() -> tuple[Batch, list[Batch]]:
    """A batch of 8, and its halves; the second's texts end before the last column."""
    whole = make_batch(8)
    valid_BT = whole.text_valid_BT.clone()
    valid_BT[4:, 5:] = False
    whole = replace(whole, text_valid_BT=valid_BT)
    first, second = split(whole, 2)
    row_M, column_M = second.hidden_word_index_M // 7, second.hidden_word_index_M % 7
    second = replace(
        second,
        text_BT=second.text_BT[:, :5],
        text_valid_BT=second.text_valid_BT[:, :5],
        masked_text_BT=second.masked_text_BT[:, :5],
        hidden_word_index_M=row_M * 5 + column_M,
    )
    return whole, [first, second]


@pytest.mark.distributed
def test_two_ranks_exchange_rows_and_train_as_one(tmp_path: Path) -> None:
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
