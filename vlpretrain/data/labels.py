"""Pictures with their classes: records of shards to rows and micro-batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from vlpretrain.data.sample import SampleError
from vlpretrain.data.transforms import PictureSettings, crop_pixels, sample_name
from vlpretrain.types import COUNTS, LabelBatch, Sample


@dataclass(frozen=True)
class ClassList:
    """The classes by their place."""

    names: tuple[str, ...]

    def index(self, sample: Sample) -> int:
        """The place of a sample's class: that of the name which its `label` gives; where no class
        is called by a number, a number is the place itself.

        Raises:
            SampleError: it has no label, or one that is no class.
        """
        name = class_name(sample)
        if name in self._places:
            return self._places[name]
        if self._are_words and is_number(name) and 0 <= int(name) < len(self.names):
            return int(name)
        raise SampleError(f"label {name!r} is none of the {len(self.names)} classes")

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def _are_words(self) -> bool:
        return not any(is_number(name) for name in self.names)


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One sample, prepared."""

    label: str  # "shard/key", for messages
    pixels_CHW: Tensor
    class_index: int


@dataclass(frozen=True)
class LabelRecipe:
    """Pictures and classes to a LabelBatch (loader.Recipe)."""

    settings: PictureSettings
    classes: ClassList

    @property
    def seed(self) -> int:
        return self.settings.seed

    def row(self, sample: Sample, epoch: int, source: int) -> LabelRow:
        """Raises SampleError: no picture, no label, or one that is no class."""
        if sample.image is None:
            raise SampleError("no picture")
        class_index = self.classes.index(sample)
        return LabelRow(
            label=f"{sample.shard}/{sample.key}",
            pixels_CHW=crop_pixels(sample.image, sample_name(sample), epoch, self.settings),
            class_index=class_index,
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
        SampleError: it has none, or something else than a name or a number.
    """
    label = sample.metadata.get("label")
    if label is None or label == "":
        raise SampleError("no label")
    if isinstance(label, bool) or not isinstance(label, (str, int)):
        raise SampleError(f".json `label` is a {type(label).__name__}, not a name or a number")
    return str(label)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once; by number where all are numbers, else by the alphabet."""
    distinct = set(names)
    if all(is_number(name) for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    return tuple(sorted(distinct))


def is_number(name: str) -> bool:
    return name.removeprefix("-").isdecimal()
