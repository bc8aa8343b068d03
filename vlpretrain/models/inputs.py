"""Pictures and texts as a trained model takes them.

Shapes: B pictures or texts, C channels, H W pixels, T tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import open_clip
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer

from vlpretrain.errors import UserError
from vlpretrain.models.backbones import OPEN_CLIP
from vlpretrain.padding import pad_ids
from vlpretrain.pixels import picture_pixels, resize_centre_crop

Picture = Image.Image | str | Path | Tensor
# Names open_clip's own tokenizer, which has no files.
OPEN_CLIP_FILE = "open_clip_tokenizer.json"


class Word(NamedTuple):
    """A word of a text as a tokenizer parts it."""

    text: str
    positions: tuple[int, ...]  # of its pieces among the text's tokens


class TextReader(Protocol):
    """Texts to token ids."""

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids [B, T], padded to the longest, and where they are real tokens [B, T]."""

    def words(self, text: str) -> list[Word]:
        """The words that `read` keeps of a text, special tokens left out."""

    def write(self, ids: Sequence[int]) -> str:
        """The text of token ids, special ones left out."""


def open_reader(folder: Path, max_tokens: int) -> TextReader | None:
    """The tokenizer of an export folder; None where it has none.

    Args:
        max_tokens: longer texts are cut to this.
    """
    if (folder / OPEN_CLIP_FILE).is_file():
        name = json.loads((folder / OPEN_CLIP_FILE).read_text())["tokenizer"]
        return ClipReader(open_clip.get_tokenizer(name.removeprefix(OPEN_CLIP)))
    if (folder / "tokenizer.json").is_file():
        return FastReader(AutoTokenizer.from_pretrained(folder), max_tokens)
    return None


class FastReader:
    """A tokenizer of the `tokenizers` library."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.backend = tokenizer.backend_tokenizer
        self.backend.no_padding()
        self.backend.enable_truncation(max_tokens)
        self.pad_id = tokenizer.pad_token_id or 0

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = [encoding.ids for encoding in self.backend.encode_batch(list(texts))]
        return pad_ids(rows, self.pad_id)

    def words(self, text: str) -> list[Word]:
        encoding = self.backend.encode(text)
        numbered = [
            (position, word)
            for position, word in enumerate(encoding.word_ids)
            if word is not None and not encoding.special_tokens_mask[position]
        ]
        words = []
        for _, pieces in groupby(numbered, key=lambda piece: piece[1]):
            positions = tuple(position for position, _ in pieces)
            first, last = encoding.offsets[positions[0]], encoding.offsets[positions[-1]]
            words.append(Word(text[first[0] : last[1]].strip(), positions))
        return words

    def write(self, ids: Sequence[int]) -> str:
        return str(self.backend.decode(list(ids), skip_special_tokens=True))


class ClipReader:
    """open_clip's own tokenizer. Its end token has the largest id and closes a text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        text_BT = self.tokenizer(list(texts))
        length_B1 = text_BT.argmax(dim=1, keepdim=True) + 1
        text_BT = text_BT[:, : int(length_B1.max())]
        return text_BT, torch.arange(text_BT.shape[1]) < length_B1

    def words(self, text: str) -> list[Word]:
        ids = self.read([text])[0][0].tolist()
        words, start = [], 1
        # Behind the start token, before the end token; a word's last piece is marked.
        for position in range(1, len(ids) - 1):
            is_last = position == len(ids) - 2
            if is_last or self.tokenizer.decoder[ids[position]].endswith("</w>"):
                spelled = self.tokenizer.decode(ids[start : position + 1]).strip()
                words.append(Word(spelled, tuple(range(start, position + 1))))
                start = position + 1
        return words

    def write(self, ids: Sequence[int]) -> str:
        special = self.tokenizer.all_special_ids
        return str(self.tokenizer.decode([token for token in ids if token not in special])).strip()


def as_list(images: Picture | Sequence[Picture] | Tensor) -> list[Picture]:
    """One picture, several, or a tensor [B, C, H, W], as a list of pictures."""
    if isinstance(images, Tensor):
        return [images] if images.ndim == 3 else list(images)
    if isinstance(images, (Image.Image, str, Path)):
        return [images]
    return list(images)


def load_pixels(pictures: Sequence[Picture], size: int) -> Tensor:
    """The middle squares as uint8 RGB [B, C, size, size]."""
    return torch.stack([resize_centre_crop(_pixels(picture), size) for picture in pictures])


def _pixels(picture: Picture) -> Tensor:
    if isinstance(picture, Tensor):
        if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[0] != 3:
            raise UserError(
                f"a picture of {picture.dtype} {list(picture.shape)}",
                fix="a uint8 RGB tensor [3, height, width]",
            )
        return picture.cpu()
    if isinstance(picture, Image.Image):
        return picture_pixels(picture)
    try:
        with Image.open(picture) as opened:
            return picture_pixels(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"cannot be read as a picture: {error}", where=str(picture), fix="a JPEG, PNG or WebP"
        ) from error
