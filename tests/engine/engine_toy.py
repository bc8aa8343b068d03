"""A small task and its batches, for tests of the engine: contrast and regression by two MLPs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlpretrain.distributed import all_gather_rows, rank, world_size
from vlpretrain.types import (
    COUNTS,
    Batch,
    Embeddings,
    GlobalEmbeddings,
    Skip,
    StepData,
    StepOutput,
)

WIDTH = 16


class ToyTask(nn.Module):
    """Global contrast of two MLPs with dropout, and the regression of one target."""

    def __init__(self, width: int = WIDTH, dropout: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(
            nn.Linear(48, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, 8)
        )
        self.text_table = nn.Embedding(32, width)
        self.text = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, 8))
        self.regress = nn.Linear(8, 1)
        self.unused_at_first = nn.Linear(8, 1)
        self.register_buffer("calls", torch.zeros(()))

    def needs_prepass(self, progress: float) -> bool:
        return True

    def forward(
        self, batch: Batch, others: GlobalEmbeddings | None = None, prepass: bool = False
    ) -> StepOutput:
        dtype = self.image[0].weight.dtype
        image_BE = self.image(batch.pixels_BCHW.to(dtype).flatten(1) / 255)
        text_BE = self.text(self.text_table(batch.text_BT).mean(1))
        mine = Embeddings(
            image_BE.detach(),
            text_BE.detach(),
            batch.image_present_B,
            batch.image_id_B,
            batch.text_id_B,
        )
        if prepass:
            return StepOutput(image_BE.sum(), {}, mine)
        itc = contrast(image_BE, text_BE, others or over_ranks(mine))
        share = batch.counts[0] / batch.mean_counts[0]
        target_B = batch.pixels_BCHW.float().mean((1, 2, 3)) / 255
        error_B = (self.regress(image_BE).squeeze(1).float() - target_B).square()
        error_B = error_B + 0.1 * self.unused_at_first(image_BE).float().square().squeeze(1) * (
            batch.progress > 0.3
        )
        mse = error_B.mean() * share
        poison = torch.where(batch.text_id_B.min() < 0, torch.nan, 0.0)
        return StepOutput(itc + mse + poison, {"loss/itc": itc.detach(), "loss/mse": mse.detach()})


def over_ranks(mine: Embeddings) -> GlobalEmbeddings:
    return GlobalEmbeddings(
        all_gather_rows(mine.image_BE),
        all_gather_rows(mine.text_BE),
        all_gather_rows(mine.pair_valid_B),
        all_gather_rows(mine.image_id_B),
        all_gather_rows(mine.text_id_B),
        rank() * len(mine.image_BE),
        world_size(),
    )


def contrast(image_BE: Tensor, text_BE: Tensor, others: GlobalEmbeddings) -> Tensor:
    """InfoNCE over the global batch; its gradient is this part's share times the parts."""
    rows = slice(others.start, others.start + len(image_BE))
    image, text = others.image_BE.float(), others.text_BE.float()
    image = torch.cat([image[: rows.start], image_BE.float(), image[rows.stop :]])
    text = torch.cat([text[: rows.start], text_BE.float(), text[rows.stop :]])
    logits = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T * 5
    target = torch.arange(len(logits), device=logits.device)
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    return loss.detach() + others.num_parts * (loss - loss.detach())


class ToyLoader:
    """Global batches of random pixels that depend on the step alone."""

    def __init__(self, micro_batch: int, micro_steps: int, poisoned: int = -1) -> None:
        self.micro_batch, self.micro_steps, self.poisoned = micro_batch, micro_steps, poisoned

    samples_per_epoch = 64

    def steps(self, first: int, last: int, skipped: int = 0) -> Iterator[StepData]:
        for step in range(first, last):
            rows = self.micro_batch * self.micro_steps * world_size()
            whole = toy_batch(step, rows, step == self.poisoned)
            parts = []
            for micro in range(self.micro_steps):
                begin = (micro * world_size() + rank()) * self.micro_batch
                parts.append(take_rows(whole, begin, begin + self.micro_batch))
            skips = (Skip("a.tar", "k1", "no picture"),) if step == 1 and rank() == 0 else ()
            yield StepData(tuple(parts), skips)


def toy_batch(step: int, rows: int, poisoned: bool = False) -> Batch:
    source = torch.Generator().manual_seed(step)
    pixels = torch.randint(0, 256, (rows, 3, 4, 4), generator=source).to(torch.uint8)
    text = torch.randint(0, 32, (rows, 5), generator=source)
    nothing = torch.zeros(0, dtype=torch.int64)
    present = torch.ones(rows, dtype=torch.bool)
    counts = torch.full((len(COUNTS),), float(rows))
    return Batch(
        pixels_BCHW=pixels,
        text_BT=text,
        text_valid_BT=torch.ones_like(text, dtype=torch.bool),
        masked_text_BT=text,
        hidden_word_index_M=nothing,
        hidden_word_target_M=nothing,
        block_hidden_BG=torch.zeros(rows, 4, dtype=torch.bool),
        image_present_B=present,
        text_present_B=present,
        image_id_B=torch.arange(rows),
        text_id_B=torch.full((rows,), -1) if poisoned else torch.arange(rows),
        counts=counts,
        mean_counts=counts,
        keys=tuple(f"s{step}/k{row}" for row in range(rows)),
    )


def take_rows(batch: Batch, begin: int, end: int) -> Batch:
    names = ("pixels_BCHW", "text_BT", "text_valid_BT", "masked_text_BT", "block_hidden_BG")
    names += ("image_present_B", "text_present_B", "image_id_B", "text_id_B", "keys")
    cut = {name: getattr(batch, name)[begin:end] for name in names}
    share = (end - begin) / len(batch)
    return replace(batch, counts=batch.counts * share, **cut)
