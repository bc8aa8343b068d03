"""A parsed sample to a row of a batch: crop, flip, chosen caption, hidden blocks.

Shapes: C channels (RGB), H height, W width, G mask blocks.
"""

from __future__ import annotations

import math
import posixpath
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import Tensor

from vlpretrain.data.decode import Box, decode_crop, jpeg_scale, snap
from vlpretrain.data.keyed import generator, stable_hash
from vlpretrain.data.masking import hide_blocks
from vlpretrain.data.sample import SampleError
from vlpretrain.errors import UserError
from vlpretrain.types import Sample

# timm's RandomResizedCrop: narrowest and widest crop, and how often a place is tried.
CROP_ASPECT = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10


@dataclass(frozen=True)
class PictureSettings:
    """How a picture is cropped."""

    image_size: int = 224  # pixels
    crop: Literal["random", "centre"] = "random"
    crop_area: tuple[float, float] = (0.5, 1.0)  # share of the picture's area
    flip: bool = False
    decode: Literal["fast", "exact"] = "fast"
    max_pixels: int = 89_478_485  # by the picture's header
    seed: int = 0

    def still(self) -> PictureSettings:
        """Alike every time, for evaluation."""
        return replace(self, crop="centre", flip=False, seed=0)


@dataclass(frozen=True)
class SampleSettings:
    """How a sample becomes a row."""

    image_size: int = 224  # pixels
    crop: Literal["random", "centre"] = "random"
    crop_area: tuple[float, float] = (0.5, 1.0)  # share of the picture's area
    flip: bool = False
    decode: Literal["fast", "exact"] = "fast"
    caption: Literal["random", "first"] = "random"
    max_tokens: int = 40
    max_pixels: int = 89_478_485  # by the picture's header
    block: int = 32  # side of a mask block, pixels
    block_ratio: float = 0.6  # share of the blocks hidden; 0: none
    word_ratio: float = 0.15  # share of the words hidden; 0: none
    whole_words: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image_size % self.block:
            raise UserError(
                f"mask blocks of {self.block} pixels don't divide a picture of {self.image_size}",
                where="objectives.mim.block",
                fix=f"data.image_size {self.image_size // self.block * self.block or self.block}, "
                f"or a block of {math.gcd(self.image_size, self.block)}",
            )

    @property
    def picture(self) -> PictureSettings:
        return PictureSettings(
            self.image_size,
            self.crop,
            self.crop_area,
            self.flip,
            self.decode,
            self.max_pixels,
            self.seed,
        )

    @property
    def num_blocks(self) -> int:
        return (self.image_size // self.block) ** 2


@dataclass(frozen=True, slots=True)
class Row:
    """One sample, prepared; the text is tokenised with the rest of the micro-batch."""

    label: str  # "shard/key", for messages
    random_key: str  # what the sample's randomness is keyed by
    epoch: int
    pixels_CHW: Tensor | None
    caption: str | None
    block_hidden_G: np.ndarray
    image_id: int  # -1 without a picture


def prepare_row(sample: Sample, epoch: int, source: int, settings: SampleSettings) -> Row:
    """Decodes and crops the picture, chooses the caption, draws the mask.

    Raises:
        SampleError: a broken picture, or neither picture nor text.
    """
    if sample.image is None and not sample.captions:
        raise SampleError("neither picture nor caption")
    key = sample_name(sample)
    pixels_CHW = None
    if sample.image is not None:
        pixels_CHW = crop_pixels(sample.image, key, epoch, settings.picture)
    return Row(
        label=f"{sample.shard}/{sample.key}",
        random_key=key,
        epoch=epoch,
        pixels_CHW=pixels_CHW,
        caption=_choose_caption(sample.captions, key, epoch, settings),
        block_hidden_G=hide_blocks(
            settings.num_blocks,
            settings.block_ratio,
            generator(settings.seed, epoch, key, "blocks"),
        ),
        image_id=_image_id(sample, source),
    )


def blank_row(settings: SampleSettings) -> Row:
    """A row without picture or text, to fill a batch up; no loss reads it."""
    random = generator(settings.seed, 0, "", "blocks")
    hidden_G = hide_blocks(settings.num_blocks, settings.block_ratio, random)
    return Row("", "", 0, None, None, hidden_G, -1)


def random_box(
    height: int, width: int, area: tuple[float, float], random: np.random.Generator
) -> Box:
    """A region of random area and aspect, as timm's RandomResizedCrop draws it."""
    for _ in range(CROP_ATTEMPTS):
        target = random.uniform(*area) * height * width
        aspect = math.exp(random.uniform(math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])))
        box_width = round(math.sqrt(target * aspect))
        box_height = round(math.sqrt(target / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(random.integers(height - box_height + 1))
            left = int(random.integers(width - box_width + 1))
            return Box(top, left, box_height, box_width)
    return _widest_box(height, width)


def centre_box(height: int, width: int) -> Box:
    """The middle square."""
    side = min(height, width)
    return Box((height - side) // 2, (width - side) // 2, side, side)


def _widest_box(height: int, width: int) -> Box:
    """The largest middle region whose aspect is allowed."""
    box_width = max(1, min(width, round(height * CROP_ASPECT[1])))
    box_height = max(1, min(height, round(width / CROP_ASPECT[0])))
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def crop_pixels(image: bytes, key: str, epoch: int, settings: PictureSettings) -> Tensor:
    """The cropped picture, uint8 RGB [C, image_size, image_size]; random by (seed, epoch, key).

    Raises:
        SampleError: not a picture that can be used.
    """
    random = generator(settings.seed, epoch, key, "crop")

    def choose_box(height: int, width: int) -> Box:
        if settings.crop == "centre":
            return centre_box(height, width)
        box = random_box(height, width, settings.crop_area, random)
        # On the grid of scaled decoding, so that fast and exact decoding give the same region.
        return snap(box, height, width, jpeg_scale(box, settings.image_size))

    pixels_CHW = decode_crop(
        image,
        settings.image_size,
        choose_box,
        max_pixels=settings.max_pixels,
        fast=settings.decode == "fast",
    )
    if settings.flip and generator(settings.seed, epoch, key, "flip").random() < 0.5:
        return pixels_CHW.flip(2)
    return pixels_CHW


def sample_name(sample: Sample) -> str:
    """What a sample's randomness is keyed by: without the folder, so that a run goes on alike
    where its shards lie elsewhere."""
    return f"{posixpath.basename(sample.shard)}/{sample.key}"


def _choose_caption(
    captions: tuple[str, ...], key: str, epoch: int, settings: SampleSettings
) -> str | None:
    if not captions:
        return None
    if settings.caption == "first" or len(captions) == 1:
        return captions[0]
    random = generator(settings.seed, epoch, key, "caption")
    return captions[int(random.integers(len(captions)))]


def _image_id(sample: Sample, source: int) -> int:
    """Equal for the same picture: by its `image_id` within a source, else by its bytes."""
    if sample.image is None:
        return -1
    given = sample.metadata.get("image_id")
    return stable_hash(sample.image if given is None else f"{source}\0{given}")
