"""Pictures and captions to be found by each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from vlpretrain.errors import UserError

LoadPixels = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class RetrievalSet:
    """What is searched. Any number of captions a picture.

    Captions of one group count as the same caption. A caption is relevant to a picture when the
    picture was given a caption of its group, and the other way round. With every caption in a group
    of its own, which is the default, this is the protocol of Karpathy and Fei-Fei (2015): relevant
    is what belongs to the picture, and nothing else.

    A picture without captions is a candidate for texts, and asks for nothing itself.
    """

    keys: tuple[str, ...]  # names of the pictures, for messages
    texts: tuple[str, ...]
    text_ids: tuple[tuple[int, ...], ...]  # encoded, special tokens included
    image_of_text: tuple[int, ...]  # row of `keys`
    pad_id: int
    load_pixels: LoadPixels  # rows of `keys` to uint8 RGB [n, 3, S, S]
    text_group: tuple[int, ...] | None = None  # of each text; None: each a group of its own

    def __post_init__(self) -> None:
        if not self.texts:
            raise UserError(
                f"none of the {len(self.keys)} pictures has a caption",
                where="retrieval",
                fix="give captions in .txt, or as `captions` in .json, beside the pictures",
            )
        lengths = {len(self.text_ids), len(self.image_of_text), len(self.groups)}
        if lengths != {len(self.texts)}:
            raise ValueError(f"{len(self.texts)} texts with lists of {sorted(lengths)} entries")
        if not all(0 <= row < len(self.keys) for row in self.image_of_text):
            raise ValueError("image_of_text names a row beyond the pictures")
        if not all(self.text_ids):
            raise ValueError("a text has no token, not even a special one")

    @cached_property
    def groups(self) -> tuple[int, ...]:
        return tuple(range(len(self.texts))) if self.text_group is None else self.text_group

    @cached_property
    def asking_images(self) -> tuple[int, ...]:
        """The pictures that have captions."""
        return tuple(sorted(set(self.image_of_text)))

    @cached_property
    def images_of(self) -> tuple[tuple[int, ...], ...]:
        """For each text the pictures that are relevant to it."""
        images: dict[int, set[int]] = defaultdict(set)
        for group, image in zip(self.groups, self.image_of_text, strict=True):
            images[group].add(image)
        by_group = {group: tuple(sorted(rows)) for group, rows in images.items()}
        return tuple(by_group[group] for group in self.groups)

    @cached_property
    def texts_of(self) -> tuple[tuple[int, ...], ...]:
        """For each picture the texts that are relevant to it."""
        texts: list[list[int]] = [[] for _ in self.keys]
        for text, images in enumerate(self.images_of):
            for image in images:
                texts[image].append(text)
        return tuple(tuple(rows) for rows in texts)
