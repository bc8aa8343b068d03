"""Token ids of unequal length as one tensor. Pure; imports nothing of ours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def pad_ids(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids [B, T], padded to the longest (one column at least), and where they are real [B, T]."""
    longest = max((len(row) for row in rows), default=1)
    ids_BT = np.full((len(rows), max(1, longest)), pad_id, dtype=np.int64)
    valid_BT = np.zeros(ids_BT.shape, dtype=bool)
    for place, row in enumerate(rows):
        ids_BT[place, : len(row)] = row
        valid_BT[place, : len(row)] = True
    return torch.from_numpy(ids_BT), torch.from_numpy(valid_BT)
