"""Pictures with their classes: records of shards to rows and micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlpretrain.data.sample import SampleError
from vlpretrain.data.transforms import PictureSettings, crop_pixels, sample_name
from vlpretrain.types import COUNTS, LabelBatch, Sample


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One sample, prepared."""

    label: str  # "shard/key", for messages
    pixels_CHW: Tensor
    class_index: int


@dataclass(frozen=True)
class LabelRecipe:
    """Pictures and classes to a LabelBatch (loader.Recipe).

    Args:
        classes: place of each class name.
    """

    settings: PictureSettings
    classes: Mapping[str, int]

    @property
    def seed(self) -> int:
        return self.settings.seed

    def row(self, sample: Sample, epoch: int, source: int) -> LabelRow:
        """Raises SampleError: no picture, no label, or one that is no class."""
        if sample.image is None:
            raise SampleError("no picture")
        name = class_name(sample)
        if name not in self.classes:
            raise SampleError(f"label {name!r} is none of the {len(self.classes)} classes")
        return LabelRow(
            label=f"{sample.shard}/{sample.key}",
            pixels_CHW=crop_pixels(sample.image, sample_name(sample), epoch, self.settings),
            class_index=self.classes[name],
        )

    def blank(self) -> LabelRow:
        side = self.settings.image_size
        return LabelRow("", torch.zeros(3, side, side, dtype=torch.uint8), -1)

    def collate(self, rows: Sequence[LabelRow]) -> LabelBatch:
        label_B = torch.tensor([row.class_index for row in rows], dtype=torch.int64)
        counts = torch.zeros(len(COUNTS))
        counts[COUNTS.index("images")] = counts[COUNTS.index("labels")] = (label_B >= 0).sum()
        return LabelBatch(
            pixels_BCHW=torch.stack([row.pixels_CHW for row in rows]),
            label_B=label_B,
            counts=counts,
            mean_counts=counts.clone(),
            keys=tuple(row.label for row in rows),
        )

    def still(self) -> LabelRecipe:
        return replace(self, settings=self.settings.still())


def class_name(sample: Sample) -> str:
    """The name of a record's `label`.

    Raises:
        SampleError: it has none.
    """
    label = sample.metadata.get("label")
    if label is None or label == "":
        raise SampleError("no label")
    return str(label)
