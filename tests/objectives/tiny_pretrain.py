"""A task of a few thousand parameters and batches for it, for the tests beside this file."""

from dataclasses import replace

import torch

from vlpretrain.config.schema import (
    ItcConfig,
    ItmConfig,
    MimConfig,
    MlmConfig,
    ObjectivesConfig,
)
from vlpretrain.models.factory import create_model
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.objectives.pretrain import PretrainTask
from vlpretrain.objectives.table import create_pretrain_task
from vlpretrain.types import COUNTS, Batch

SIZE, BLOCK, VOCAB, MASK_ID = 32, 16, 40, 4
NUM_BLOCKS = (SIZE // BLOCK) ** 2


def tiny_task(
    dropout: float = 0.0,
    kind: str = "cross",
    mim: MimConfig | None = None,
    itm: ItmConfig | None = None,
    itc: ItcConfig | None = None,
    mlm: MlmConfig | None = None,
) -> PretrainTask:
    """Towers and fusion 16 wide, two layers each; objectives by default with weight 1."""
    torch.manual_seed(0)
    spec = ModelSpec(
        VisionSpec("vit_tiny_patch16_224", SIZE, BLOCK, depth=2, width=16, heads=2, patch=8),
        TextSpec(vocab_size=VOCAB, max_tokens=12, depth=2, width=16, heads=2, dropout=dropout),
        FusionSpec(kind, depth=2, width=16, heads=2, dropout=dropout),
        embed_dim=8,
    )
    config = ObjectivesConfig(
        mim=replace(mim or MimConfig(), block=BLOCK, ratio=0.5, decoder_width=32),
        itm=itm or ItmConfig(hard_from=0.0),
        itc=itc or ItcConfig(),
        mlm=mlm or MlmConfig(),
    )
    task = create_pretrain_task(create_model(spec), config)
    # Random heads say nothing: larger weights make a wrong row visible in the losses.
    for parameter in task.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return task


def off(config: type) -> object:
    """An objective's configuration that switches it off."""
    return config(weight=0.0)


def make_batch(size: int = 6, tokens: int = 7, seed: int = 0) -> Batch:
    """Distinct pairs; texts of 3 to `tokens` tokens, two hidden words each."""
    generator = torch.Generator().manual_seed(seed)
    length_B = torch.randint(4, tokens + 1, (size,), generator=generator)
    length_B[0] = tokens
    valid_BT = torch.arange(tokens) < length_B[:, None]
    text_BT = torch.randint(5, VOCAB, (size, tokens), generator=generator) * valid_BT
    masked_BT = text_BT.clone()
    masked_BT[:, 1:3] = MASK_ID
    index_M = (torch.arange(size)[:, None] * tokens + torch.tensor([1, 2])).flatten()
    hidden_BG = torch.rand(size, NUM_BLOCKS, generator=generator).argsort(1) < 2
    present_B = torch.ones(size, dtype=torch.bool)
    batch = Batch(
        pixels_BCHW=torch.randint(
            0, 256, (size, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator
        ),
        text_BT=text_BT,
        text_valid_BT=valid_BT,
        masked_text_BT=masked_BT,
        hidden_word_index_M=index_M,
        hidden_word_target_M=text_BT.flatten()[index_M],
        block_hidden_BG=hidden_BG,
        image_present_B=present_B,
        text_present_B=present_B,
        image_id_B=torch.arange(size) + 100 * seed,
        text_id_B=torch.arange(size) + 100 * seed,
        counts=torch.ones(len(COUNTS)),
        mean_counts=torch.ones(len(COUNTS)),
        keys=tuple(f"shard/{row}" for row in range(size)),
        seed=seed,
        progress=0.5,
    )
    return count(batch)


def count(batch: Batch) -> Batch:
    """The batch with the counts of what it holds now, as if it were the whole global batch."""
    numbers = {
        "images": batch.image_present_B.sum(),
        "texts": batch.text_present_B.sum(),
        "pairs": (batch.image_present_B & batch.text_present_B).sum(),
        "hidden_blocks": batch.block_hidden_BG[batch.image_present_B].sum(),
        "hidden_words": torch.tensor(len(batch.hidden_word_index_M)),
    }
    counts = torch.stack([numbers.get(name, torch.tensor(0)) for name in COUNTS]).float()
    return replace(batch, counts=counts, mean_counts=counts)


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch's rows in `parts` micro-batches that know the global batch's mean counts."""
    size, tokens = len(batch) // parts, batch.text_BT.shape[1]
    pieces = []
    for part in range(parts):
        rows = slice(part * size, (part + 1) * size)
        row_M = batch.hidden_word_index_M // tokens
        mine_M = (row_M >= rows.start) & (row_M < rows.stop)
        named = {
            name: getattr(batch, name)[rows]
            for name in Batch.__dataclass_fields__
            if "_B" in name or name == "keys"
        }
        index_M = batch.hidden_word_index_M[mine_M] - rows.start * tokens
        target_M = batch.hidden_word_target_M[mine_M]
        pieces.append(
            replace(batch, **named, hidden_word_index_M=index_M, hidden_word_target_M=target_M)
        )
    pieces = [count(piece) for piece in pieces]
    mean_counts = torch.stack([piece.counts for piece in pieces]).mean(0)
    return [replace(piece, mean_counts=mean_counts) for piece in pieces]
