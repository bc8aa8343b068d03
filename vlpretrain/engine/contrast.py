"""Contrast under gradient accumulation: every micro-batch meets the whole global batch.

A first pass without gradient collects all embeddings; each micro-batch is then computed again with
the same randomness, its own rows live among the others' (the caching of Gao et al. 2021, "Scaling
Deep Contrastive Learning Batch Size under Memory Limited Setup").
B rows of a micro-batch, R ranks, S micro-steps, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlpretrain.distributed import all_gather_rows, rank, world_size
from vlpretrain.types import Embeddings, GlobalEmbeddings


def gather_parts(local: Sequence[Embeddings]) -> list[GlobalEmbeddings]:
    """One rank's micro-batches -> what each is given. All ranks call, with equal B."""
    image_BE, text_BE = _join([e.image_BE for e in local]), _join([e.text_BE for e in local])
    valid_B = _join([e.pair_valid_B for e in local])
    image_id_B = _join([e.image_id_B for e in local])
    text_id_B = _join([e.text_id_B for e in local])
    rows = len(local[0].image_BE)
    return [
        GlobalEmbeddings(
            image_BE=image_BE,
            text_BE=text_BE,
            pair_valid_B=valid_B,
            image_id_B=image_id_B,
            text_id_B=text_id_B,
            start=(micro * world_size() + rank()) * rows,
            num_parts=len(local) * world_size(),
        )
        for micro in range(len(local))
    ]


def _join(micro_batches: Sequence[Tensor]) -> Tensor:
    """Rows of S micro-batches of this rank -> rows of all ranks, micro-step by micro-step."""
    local_SB = torch.stack(list(micro_batches))
    all_RSB = all_gather_rows(local_SB).unflatten(0, (world_size(), len(micro_batches)))
    return all_RSB.transpose(0, 1).flatten(0, 2)
