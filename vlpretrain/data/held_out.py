"""Held-out samples, all of their texts at once and their pictures on demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vlpretrain.data.reader import ShardReader
from vlpretrain.data.sample import SampleError, parse_sample
from vlpretrain.data.shards import Source
from vlpretrain.data.transforms import PictureSettings, crop_pixels, sample_name
from vlpretrain.types import Position, Sample, Skip


class HeldOut:
    """The samples of some sources in the order of their files, the same on every rank.

    Attributes:
        samples: without their pictures.
        skips: what could not be used so far: records at once, pictures when they are asked for.
        broken: the rows of the latter.
    """

    def __init__(
        self, sources: Sequence[Source], settings: PictureSettings, limit: int = 0
    ) -> None:
        """`limit`: the first so many samples; 0: all."""
        self.settings = settings.still()
        self.reader = ShardReader(sources)
        self.samples: list[Sample] = []
        self.skips: list[Skip] = []
        self.broken: set[int] = set()
        self._places: list[Position] = []
        for position, sample in read_texts(sources, self.reader, self.skips):
            self.samples.append(sample)
            self._places.append(position)
            if limit and len(self.samples) == limit:
                break

    def __len__(self) -> int:
        return len(self.samples)

    def pixels(self, rows: Sequence[int], number: int = 0) -> Tensor:
        """Picture `number` of some samples, centre crop, uint8 [n, C, S, S].

        Where it is missing or broken, a black one stands in and `skips` names it.
        """
        side = self.settings.image_size
        pixels_BCHW = torch.zeros(len(rows), 3, side, side, dtype=torch.uint8)
        for place, row in enumerate(rows):
            try:
                pixels_BCHW[place].copy_(self._picture(row, number))
            except SampleError as error:
                self.broken.add(row)
                sample = self.samples[row]
                self._note(Skip(sample.shard, sample.key, str(error)))
        return pixels_BCHW

    def _picture(self, row: int, number: int) -> Tensor:
        sample = parse_sample(self.reader.read(self._places[row]))
        if len(sample.images) <= number:
            raise SampleError(f"no picture number {number + 1}" if number else "no picture")
        return crop_pixels(sample.images[number], sample_name(sample), 0, self.settings)

    def _note(self, skip: Skip) -> None:
        if skip not in self.skips:
            self.skips.append(skip)


def read_texts(
    sources: Sequence[Source], reader: ShardReader, skips: list[Skip]
) -> Iterator[tuple[Position, Sample]]:
    """Every sample without its pictures, in the order of the files; broken ones go to `skips`."""
    number = 0
    for source_row, source in enumerate(sources):
        for shard, size in enumerate(source.sizes.tolist()):
            for row in range(size):
                position = Position(0, number, source_row, shard, row)
                number += 1
                raw = reader.read_texts(position)
                try:
                    yield position, parse_sample(raw)
                except SampleError as error:
                    skips.append(Skip(raw.shard, raw.key, str(error)))
