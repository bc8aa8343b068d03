"""The real pretraining task, tiny, and global batches cut into any number of parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from vlpretrain.config.schema import (
    ItcConfig,
    ItmConfig,
    MimConfig,
    MlmConfig,
    ObjectivesConfig,
    ScheduleConfig,
)
from vlpretrain.distributed import rank, world_size
from vlpretrain.models.factory import create_model
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.objectives.pretrain import PretrainTask
from vlpretrain.objectives.table import create_pretrain_task
from vlpretrain.types import COUNTS, Batch, StepData

SIZE, BLOCK, VOCAB, MASK_ID, TOKENS = 32, 16, 40, 4, 7


def tiny_pretraining(dropout: float = 0.0) -> PretrainTask:
    """All four objectives, the words from a third of the run on; negatives over all ranks."""
    torch.manual_seed(0)
    model = create_model(
        ModelSpec(
            VisionSpec("vit_tiny_patch16_224", SIZE, BLOCK, depth=1, width=16, heads=2, patch=8),
            TextSpec(vocab_size=VOCAB, max_tokens=12, depth=1, width=16, heads=2, dropout=dropout),
            FusionSpec("cross", depth=2, width=16, heads=2, dropout=dropout),
            embed_dim=8,
        )
    )
    objectives = ObjectivesConfig(
        MimConfig(block=BLOCK),
        ItmConfig(negatives="global", hard_from=0.0),
        ItcConfig(),
        MlmConfig(schedule=ScheduleConfig(start=0.33)),
    )
    return create_pretrain_task(model, objectives)


class PretrainLoader:
    """Pairs drawn anew for every step, the same however they are divided."""

    samples_per_epoch = 64

    def __init__(self, micro_batch: int, micro_steps: int) -> None:
        self.micro_batch, self.micro_steps = micro_batch, micro_steps

    def steps(self, first: int, last: int, skipped: int = 0) -> Iterator[StepData]:
        for step in range(first, last):
            whole = pretraining_batch(step, self.micro_batch * self.micro_steps * world_size())
            begins = [
                (micro * world_size() + rank()) * self.micro_batch
                for micro in range(self.micro_steps)
            ]
            parts = [cut(whole, begin, begin + self.micro_batch) for begin in begins]
            yield StepData(tuple(parts), ())


def pretraining_batch(step: int, rows: int) -> Batch:
    """Random pictures, and texts that say which half of the grey scale they begin in."""
    source = torch.Generator().manual_seed(step)
    bright_B = torch.randint(0, 2, (rows,), generator=source)
    noise = torch.randint(0, 128, (rows, 3, SIZE, SIZE), generator=source)
    text_BT = torch.randint(5, VOCAB // 2, (rows, TOKENS), generator=source)
    text_BT = text_BT + bright_B[:, None] * (VOCAB // 2 - 5)
    length_B = torch.randint(4, TOKENS + 1, (rows,), generator=source)
    valid_BT = torch.arange(TOKENS) < length_B[:, None]
    masked_BT = (text_BT * valid_BT).clone()
    masked_BT[:, 1:3] = MASK_ID
    index_M = (torch.arange(rows)[:, None] * TOKENS + torch.tensor([1, 2])).flatten()
    present_B = torch.ones(rows, dtype=torch.bool)
    ids_B = torch.arange(rows) + 1000 * step
    return Batch(
        pixels_BCHW=(noise + 128 * bright_B[:, None, None, None]).to(torch.uint8),
        text_BT=text_BT * valid_BT,
        text_valid_BT=valid_BT,
        masked_text_BT=masked_BT,
        hidden_word_index_M=index_M,
        hidden_word_target_M=text_BT.flatten()[index_M],
        block_hidden_BG=torch.rand(rows, 4, generator=source).argsort(1) < 2,
        image_present_B=present_B,
        text_present_B=present_B,
        image_id_B=ids_B,
        text_id_B=ids_B,
        counts=torch.zeros(len(COUNTS)),
        mean_counts=torch.zeros(len(COUNTS)),
        keys=tuple(f"s{step}/k{row}" for row in range(rows)),
    )


def cut(whole: Batch, begin: int, end: int) -> Batch:
    """Rows begin .. end - 1 as a micro-batch of their own, with its counts."""
    names = ("pixels_BCHW", "text_BT", "text_valid_BT", "masked_text_BT", "block_hidden_BG")
    names += ("image_present_B", "text_present_B", "image_id_B", "text_id_B", "keys")
    inside_M = whole.hidden_word_index_M.div(TOKENS, rounding_mode="floor")
    inside_M = (inside_M >= begin) & (inside_M < end)
    rows = end - begin
    counts = {"images": rows, "texts": rows, "pairs": rows, "hidden_blocks": 2 * rows}
    counts["hidden_words"] = int(inside_M.sum())
    return replace(
        whole,
        hidden_word_index_M=whole.hidden_word_index_M[inside_M] - begin * TOKENS,
        hidden_word_target_M=whole.hidden_word_target_M[inside_M],
        counts=torch.tensor([float(counts.get(name, 0)) for name in COUNTS]),
        **{name: getattr(whole, name)[begin:end] for name in names},
    )
