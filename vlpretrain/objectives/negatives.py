"""Drawing hard negatives without a loop, a host sync or a draw that depends on the ranks.

B rows of this rank, C candidates.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

_LOW_32_BITS = 0xFFFFFFFF
Bits = TypeVar("Bits", int, Tensor)  # 32 of them; a tensor's are held in int64


class Choice(NamedTuple):
    """One candidate a row."""

    index_B: Tensor  # int64 into the candidates; meaningless where none was found
    found_B: Tensor  # bool, False where the row has no candidate


def draw(score_BC: Tensor, allowed_BC: Tensor, uniform_BC: Tensor) -> Choice:
    """Draws a candidate a row with probability softmax(score) over the allowed ones.

    Gumbel-max: no probability is ever formed, so nothing underflows however far a score leads.
    `uniform_BC` is noise in (0, 1).
    """
    gumbel_BC = -torch.log(-torch.log(uniform_BC))
    noisy_BC = (score_BC.float() + gumbel_BC).masked_fill(~allowed_BC, -torch.inf)
    return Choice(noisy_BC.argmax(dim=1), allowed_BC.any(dim=1))


def allowed_negatives(
    image_id_B: Tensor, text_id_B: Tensor, image_id_C: Tensor, text_id_C: Tensor
) -> Tensor:
    """bool [B, C], True where the candidate has neither the row's picture nor its text."""
    other_image_BC = image_id_B[:, None] != image_id_C
    other_text_BC = text_id_B[:, None] != text_id_C
    return other_image_BC & other_text_BC


def keyed_uniform(seed: int, row_B: Tensor, column_C: Tensor) -> Tensor:
    """Noise in (0, 1), float32 [B, C], keyed by (seed, row, column) alone.

    A hash rather than a generator: a rank makes its own rows of the micro-step's noise, which are
    the same however many ranks share the micro-step, without drawing the others'.
    """
    seed_key = _mix(_mix(seed & _LOW_32_BITS) ^ (seed >> 32 & _LOW_32_BITS))
    key_B1 = _mix(row_B.long() ^ seed_key)[:, None]
    key_BC = _mix(key_B1 ^ _mix(column_C.long() + 1))
    # The upper 23 bits and a half: never 0 or 1 in float32, so both logarithms are finite.
    return ((key_BC >> 9).float() + 0.5) / 2**23


def _mix(value: Bits) -> Bits:
    """A bijection of 32-bit numbers whose output bits depend on every input bit.

    Multiply and xor-shift rounds; the constants come from C. Wellons' search for hashes of low
    bias (2018). A product's lost high bits are not needed.
    """
    value = ((value ^ (value >> 16)) * 0x7FEB352D) & _LOW_32_BITS
    value = ((value ^ (value >> 15)) * 0x846CA68B) & _LOW_32_BITS
    return value ^ (value >> 16)
