"""Rows over ranks. Every function also works in one process without a process group.

Imports nothing of ours. Shapes: B rows of a rank, W ranks, K rows wanted, S rows sent, L lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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


def max_over_ranks(value: int, device: torch.device) -> int:
    """The largest of the ranks' values, on every rank. Waits for the device."""
    if world_size() == 1:
        return value
    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


@dataclass(frozen=True, slots=True)
class ExchangePlan:
    """Which of its rows a rank sends to whom, and how those that arrive are put in order."""

    send_index_S: Tensor  # own rows that are wanted, destination by destination
    send_counts: list[int]  # by destination
    receive_counts: list[int]  # by origin
    place_K: Tensor  # where each wanted row stands among those that arrive


def plan_exchanges(wanted: Sequence[Tensor], rows_a_rank: int) -> list[ExchangePlan]:
    """One plan for each list of wanted rows; row i of rank r is number r * rows_a_rank + i.

    The numbers of rows are host values: all plans together wait for the device once.
    """
    owners = [wanted_K // rows_a_rank for wanted_K in wanted]
    rank_W = torch.arange(world_size(), device=wanted[0].device)
    receive_LW = torch.stack([(owner_K[:, None] == rank_W).sum(0) for owner_K in owners])
    send_LW = _all_to_all(receive_LW.T.contiguous(), None, None).T
    send_counts, receive_counts = torch.stack([send_LW, receive_LW]).tolist()
    plans = []
    for wanted_K, owner_K, send, receive in zip(
        wanted, owners, send_counts, receive_counts, strict=True
    ):
        order_K = owner_K.argsort(stable=True)
        asked_S = _all_to_all(wanted_K[order_K] % rows_a_rank, receive, send)
        plans.append(ExchangePlan(asked_S, send, receive, order_K.argsort()))
    return plans


def exchange_rows(rows_B: Tensor, plan: ExchangePlan) -> Tensor:
    """The plan's wanted rows [K, ...] of all ranks' rows [B, ...]; the gradient travels back."""
    sent = rows_B.index_select(0, plan.send_index_S)
    arrived = _Exchange.apply(sent, plan.send_counts, plan.receive_counts)
    return arrived.index_select(0, plan.place_K)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, send: list[int], receive: list[int]) -> Tensor:
        ctx.send, ctx.receive = send, receive
        return _all_to_all(rows, send, receive)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _all_to_all(grad, ctx.receive, ctx.send), None, None


def _all_to_all(rows: Tensor, send: list[int] | None, receive: list[int] | None) -> Tensor:
    """Rows sorted by destination, `send[w]` for rank w, to rows sorted by origin.

    None: as many rows to each rank.
    """
    if world_size() == 1:
        return rows.clone()
    num_received = len(rows) if receive is None else sum(receive)
    # As bytes: gloo knows neither bool nor bfloat16.
    wire = rows.unsqueeze(-1).flatten(1).contiguous().view(torch.uint8)
    arrived = wire.new_empty((num_received, wire.shape[1]))
    dist.all_to_all_single(arrived, wire, receive, send)
    return arrived.view(rows.dtype).view(num_received, *rows.shape[1:])


def gather_objects(item: Any) -> list[Any]:
    """Every rank's item, on every rank, in rank order."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items
