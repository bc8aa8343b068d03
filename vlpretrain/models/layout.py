"""Where the tokens of text-image pairs stand in memory.

Linear layers work on flat rows [S, D] without padding; attention works on a grid [G, Q, D] of
groups. On a CPU the rows are the valid tokens only, and all queries that meet one picture form one
group, so that its keys need no copy. On a GPU finding the valid tokens would
make the host wait, so every position is a row and every pair a group.

Shapes: R rows of texts or pictures, T text positions, P pairs, S flat rows, K positions read,
G groups, Q slots of a group, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, slots=True)
class FusionPairs:
    """Which texts are read with which pictures, and where the result is wanted.

    Pair p joins text row `text_row_P[p]` with image row `image_row_P[p]`. `read_index_K` are flat
    positions p * T + t, each at most once and each a valid token; a padded layout also reads
    padding, which means nothing.
    """

    text_row_P: Tensor  # int64
    image_row_P: Tensor  # int64
    read_index_K: Tensor  # int64


@dataclass(frozen=True, slots=True)
class Slots:
    """Where flat rows stand in a grid of groups. `index_S` None: row s stands in slot s."""

    index_S: Tensor | None
    num_groups: int
    size: int

    def pad(self, rows_SD: Tensor) -> Tensor:
        """[S, D] to [G, Q, D], zeros in the empty slots."""
        if self.index_S is not None:
            rows_SD = _Scatter.apply(rows_SD, self.index_S, self.num_groups * self.size)
        return rows_SD.unflatten(0, (self.num_groups, self.size))

    def unpad(self, grid_GQD: Tensor) -> Tensor:
        """[G, Q, D] to [S, D]."""
        rows_SD = grid_GQD.flatten(0, 1)
        return rows_SD if self.index_S is None else _Gather.apply(rows_SD, self.index_S)

    def places(self, device: torch.device) -> Tensor:
        """`index_S`, whether it is kept or not."""
        if self.index_S is not None:
            return self.index_S
        return torch.arange(self.num_groups * self.size, device=device)


@dataclass(frozen=True, slots=True)
class RowLayout:
    """Flat rows, grouped for self-attention (by pair) and for cross-attention (by picture)."""

    pair: Slots
    image: Slots


@dataclass(frozen=True, slots=True)
class PairLayout:
    """All that a fusion needs to know about where tokens stand."""

    text: Slots  # the distinct texts' tokens, grouped by text row
    text_valid_RT: Tensor
    text_index_S: Tensor  # for every row of `rows`: which row of `text` it starts as
    rows: RowLayout
    pair_valid_PT: Tensor
    reads: RowLayout  # the positions that are read, as queries
    read_row_K: Tensor  # for every read position: which row of `rows` it is
    image_row_G: Tensor | None  # the picture of each group; None: group g meets picture g


def lay_out(text_valid_RT: Tensor, pairs: FusionPairs, num_images: int) -> PairLayout:
    """The layout that suits the device of its arguments.

    Args:
        text_valid_RT: True where a real token stands. A text's first position always counts as
            one, so that no row is empty.
        num_images: rows of the image side.
    """
    text_valid_RT = first_is_valid(text_valid_RT)
    if packs_rows(text_valid_RT.device):
        return packed_layout(text_valid_RT, pairs, num_images)
    return padded_layout(text_valid_RT, pairs)


def packs_rows(device: torch.device) -> bool:
    """Whether rows are the valid tokens only: not on a GPU, for which the host would wait."""
    return device.type == "cpu"


def every_token(valid_PT: Tensor) -> Slots:
    """Where all tokens of pairs are read: the valid ones, or, where every position is a row anyway,
    every position."""
    if not packs_rows(valid_PT.device):
        return Slots(None, *valid_PT.shape)
    return Slots(valid_PT.flatten().nonzero().squeeze(1), *valid_PT.shape)


def first_tokens(valid_PT: Tensor) -> Slots:
    """Where the first token of each pair is read."""
    num_pairs, length = valid_PT.shape
    index_P = torch.arange(num_pairs, device=valid_PT.device) * length
    return Slots(index_P, num_pairs, length)


def first_is_valid(valid_RT: Tensor) -> Tensor:
    """A copy of the mask in which the first position of every text is valid."""
    valid_RT = valid_RT.clone()
    valid_RT[:, 0] = True
    return valid_RT


def padded_layout(text_valid_RT: Tensor, pairs: FusionPairs) -> PairLayout:
    """Every position is a row; no shape depends on a value, so the host never waits."""
    num_texts, length = text_valid_RT.shape
    num_pairs = len(pairs.text_row_P)
    full = Slots(None, num_pairs, length)
    read = Slots(pairs.read_index_K, num_pairs, length)
    column_T = torch.arange(length, device=text_valid_RT.device)
    return PairLayout(
        text=Slots(None, num_texts, length),
        text_valid_RT=text_valid_RT,
        text_index_S=(pairs.text_row_P[:, None] * length + column_T).flatten(),
        rows=RowLayout(pair=full, image=full),
        pair_valid_PT=text_valid_RT[pairs.text_row_P],
        reads=RowLayout(pair=read, image=read),
        read_row_K=pairs.read_index_K,
        image_row_G=pairs.image_row_P,
    )


def packed_layout(text_valid_RT: Tensor, pairs: FusionPairs, num_images: int) -> PairLayout:
    """Only valid tokens are rows, and rows that meet the same picture form one group."""
    num_texts, length = text_valid_RT.shape
    num_pairs = len(pairs.text_row_P)
    text_position_U = text_valid_RT.flatten().nonzero().squeeze(1)
    text_row_at_RT = _inverse(text_position_U, text_valid_RT.numel()).view(num_texts, length)
    pair_valid_PT = text_valid_RT[pairs.text_row_P]
    position_S = pair_valid_PT.flatten().nonzero().squeeze(1)
    read_row_K = _inverse(position_S, num_pairs * length)[pairs.read_index_K]
    if bool((read_row_K < 0).any()):
        raise ValueError("read_index_K names a position of padding")
    return PairLayout(
        text=Slots(text_position_U, num_texts, length),
        text_valid_RT=text_valid_RT,
        text_index_S=text_row_at_RT[pairs.text_row_P].flatten()[position_S],
        rows=RowLayout(
            pair=Slots(position_S, num_pairs, length),
            image=stack_rows(pairs.image_row_P[position_S // length], num_images),
        ),
        pair_valid_PT=pair_valid_PT,
        reads=RowLayout(
            pair=stack_rows(pairs.read_index_K // length, num_pairs),
            image=stack_rows(pairs.image_row_P[pairs.read_index_K // length], num_images),
        ),
        read_row_K=read_row_K,
        image_row_G=None,
    )


def stack_rows(group_S: Tensor, num_groups: int) -> Slots:
    """Slots for rows of known groups, each group filled from its first slot on; for a CPU."""
    count_G = torch.bincount(group_S, minlength=num_groups)
    order_S = group_S.argsort(stable=True)
    first_G = count_G.cumsum(0) - count_G
    place_S = torch.empty_like(group_S)
    place_S[order_S] = torch.arange(len(group_S)) - first_G[group_S[order_S]]
    size = max(1, int(count_G.max())) if num_groups else 1
    return Slots(group_S * size + place_S, num_groups, size)


def _inverse(index_S: Tensor, size: int) -> Tensor:
    """For every position under `size`: where it stands in `index_S`, or -1."""
    inverse = torch.full((size,), -1, dtype=torch.int64)
    inverse[index_S] = torch.arange(len(index_S))
    return inverse


class _Scatter(torch.autograd.Function):
    """Rows to distinct slots of a grid of zeros. Distinct slots make the gradient a plain gather;
    autograd's own would add rows up one by one."""

    @staticmethod
    def forward(ctx: Any, rows_SD: Tensor, index_S: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(index_S)
        return rows_SD.new_zeros(size, rows_SD.shape[1]).index_copy_(0, index_S, rows_SD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (index_S,) = ctx.saved_tensors
        return grad.index_select(0, index_S), None, None


class _Gather(torch.autograd.Function):
    """Rows from distinct slots of a grid: the transpose of _Scatter."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, index_S: Tensor) -> Tensor:
        ctx.save_for_backward(index_S)
        ctx.size = len(grid)
        return grid.index_select(0, index_S)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SD: Tensor) -> tuple[Tensor, None]:
        (index_S,) = ctx.saved_tensors
        grad = grad_SD.new_zeros(ctx.size, grad_SD.shape[1])
        return grad.index_copy_(0, index_S, grad_SD), None
