"""Pictures and captions to be found by each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
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


@dataclass(frozen=True, slots=True)
class CaptionedPicture:
    """A row that a set is made of."""

    key: str
    captions: tuple[str, ...]
    image_id: Hashable = None  # None: it has none, and is a picture of its own


def make_retrieval_set(
    pictures: Sequence[CaptionedPicture],
    encode: Callable[[Sequence[str]], Sequence[Sequence[int]]],
    pad_id: int,
    load_pixels: LoadPixels,
    caption_id: Callable[[str], Hashable] | None = None,
) -> RetrievalSet:
    """A set from rows as they stand in shards.

    Rows of one `image_id` must show the same picture: it becomes one candidate with the captions of
    them all.

    Args:
        encode: texts to token ids, special tokens included.
        load_pixels: rows of `pictures` to uint8 RGB [n, 3, S, S].
        caption_id: equal for captions that count as the same; None: no two do.

    Raises:
        UserError: no captions at all, or two pictures under one id.
    """
    row_of_id: dict[Hashable, int] = {}
    captions: dict[int, dict[str, None]] = {}
    for row, picture in enumerate(pictures):
        name = ("row", row) if picture.image_id is None else ("id", picture.image_id)
        first = row_of_id.setdefault(name, row)
        if first != row:
            _check_same(pictures, first, row, load_pixels)
        captions.setdefault(first, {}).update(dict.fromkeys(picture.captions))
    kept = list(captions)
    texts = tuple(caption for row in kept for caption in captions[row])
    owners = (place for place, row in enumerate(kept) for _ in captions[row])
    return RetrievalSet(
        keys=tuple(pictures[row].key for row in kept),
        texts=texts,
        text_ids=tuple(tuple(ids) for ids in encode(texts)) if texts else (),
        image_of_text=tuple(owners),
        pad_id=pad_id,
        load_pixels=lambda rows: load_pixels([kept[row] for row in rows]),
        text_group=None if caption_id is None else _numbered([caption_id(text) for text in texts]),
    )


def _check_same(
    pictures: Sequence[CaptionedPicture], first: int, row: int, load_pixels: LoadPixels
) -> None:
    one, other = load_pixels([first, row])
    if not bool((one == other).all()):
        raise UserError(
            f"two pictures under the id {pictures[row].image_id!r}: "
            f"{pictures[first].key} and {pictures[row].key}",
            where="image_id",
            fix="give every picture an id of its own, or leave `image_id` out",
        )


def _numbered(names: Sequence[Hashable]) -> tuple[int, ...]:
    """Equal names get equal numbers."""
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(name, len(numbers)) for name in names)
