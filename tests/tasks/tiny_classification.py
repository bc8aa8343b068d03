"""A tiny model under the classification task, and batches of pictures with classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlpretrain.models.classifier import Classifier, ClassifierSpec
from vlpretrain.models.factory import create_model
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.tasks.classification import ClassificationTask
from vlpretrain.types import COUNTS, LabelBatch

CLASSES = ("ant", "bee", "cat")
SIZE = 32
SPEC = ModelSpec(
    VisionSpec("vit_tiny_patch16_224", SIZE, 16, depth=2, width=16, heads=2, patch=8),
    TextSpec(vocab_size=40, max_tokens=12, depth=1, width=16, heads=2, dropout=0.0),
    FusionSpec(depth=1, width=16, heads=2),
    embed_dim=8,
)


def tiny_task(
    probe: bool = False, pool: str = "tower", smoothing: float = 0.0, classes: int = 3
) -> ClassificationTask:
    torch.manual_seed(0)
    model = create_model(SPEC)
    names = CLASSES if classes == 3 else tuple(f"class {number}" for number in range(classes))
    classifier = Classifier(ClassifierSpec(names, pool, probe), model.vision.width)  # type: ignore[arg-type]
    task = ClassificationTask(model, classifier, smoothing)
    # Random weights say nothing: larger ones make a wrong row visible in the loss.
    for parameter in task.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.15)
    return task


def random_pixels(size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (size, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)


def make_batch(labels: list[int], seed: int = 0) -> LabelBatch:
    """As if it were the whole global batch; -1: no class."""
    label_B = torch.tensor(labels)
    counts = count(label_B)
    return LabelBatch(
        pixels_BCHW=random_pixels(len(labels), seed),
        label_B=label_B,
        counts=counts,
        mean_counts=counts,
        keys=("",) * len(labels),
    )


def split(batch: LabelBatch, parts: int) -> list[LabelBatch]:
    """Micro-batches that know the global batch's mean counts."""
    rows = len(batch) // parts
    pieces = [slice(part * rows, (part + 1) * rows) for part in range(parts)]
    counts = [count(batch.label_B[piece]) for piece in pieces]
    return [
        LabelBatch(
            pixels_BCHW=batch.pixels_BCHW[piece],
            label_B=batch.label_B[piece],
            counts=own,
            mean_counts=torch.stack(counts).mean(0),
            keys=batch.keys[piece],
        )
        for piece, own in zip(pieces, counts, strict=True)
    ]


def count(label_B: Tensor) -> Tensor:
    counts = torch.zeros(len(COUNTS))
    counts[COUNTS.index("labels")] = (label_B >= 0).sum()
    return counts
