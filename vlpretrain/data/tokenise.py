"""Texts to token ids: a WordPiece trained here, any fast hub tokenizer, or open_clip's."""

from __future__ import annotations

import difflib
import json
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vlpretrain.errors import UserError

OPEN_CLIP_PREFIX = "open_clip:"
OPEN_CLIP_FILE = "open_clip_tokenizer.json"
PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"

# A pair of pieces seen once is chance: merging it would learn whole rare words by heart.
MIN_PAIR_COUNT = 2

# Moves a character into unassigned code space, to tell "inside a word" from "starts a word".
INSIDE_WORD = 0x80000


class Encoded(NamedTuple):
    """One text's tokens, special ones included."""

    ids: list[int]
    word_ids: list[int | None]  # the word that each token is a piece of; None: a special token


class Tokeniser(Protocol):
    """What collate and the towers know of a tokenizer."""

    vocab_size: int
    pad_id: int
    cls_id: int | None  # first token of a text, where the tokenizer has one
    mask_id: int | None  # None: it has no mask token, and words can't be hidden
    ordinary_ids: np.ndarray  # int64, every id but the special tokens'

    def encode(self, texts: Sequence[str], max_tokens: int | None = None) -> list[Encoded]:
        """Token ids of each text, cut to `max_tokens` with first and last special token kept."""

    def decode(self, ids: Sequence[int]) -> str:
        """The words of token ids, special tokens left out."""

    def save(self, folder: str | Path) -> None:
        """Writes what `load_tokeniser(folder)` opens."""


def load_tokeniser(name: str | Path) -> Tokeniser:
    """A tokenizer folder, a hub name, or "open_clip:MODEL".

    Raises:
        UserError: nothing of that name can be opened.
    """
    saved = Path(name) / OPEN_CLIP_FILE
    wanted = json.loads(saved.read_text())["tokenizer"] if saved.is_file() else str(name)
    if wanted.startswith(OPEN_CLIP_PREFIX):
        return _load_open_clip(wanted.removeprefix(OPEN_CLIP_PREFIX))
    try:
        tokenizer = AutoTokenizer.from_pretrained(wanted)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"tokenizer {wanted!r} can't be opened ({str(error).strip().splitlines()[0]})",
            where="data.tokenizer",
            fix='give a folder with tokenizer.json, a hub name, "open_clip:MODEL", or "train"',
        ) from error
    return FastTokeniser(tokenizer)


def train_wordpiece(captions: Iterable[str], vocab_size: int) -> FastTokeniser:
    """A lower-casing WordPiece tokenizer with BERT's special tokens, learnt from the captions.

    The same captions in the same order give the same vocabulary, id by id. Characters that the
    captions hold are all kept, so a vocabulary smaller than the alphabet grows to hold it.
    """
    normaliser = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = _count_words(captions, normaliser, splitter)
    if not words:
        raise UserError(
            "no caption to train a tokenizer on",
            where="data.tokenizer",
            fix="give shards with captions, or name a ready tokenizer",
        )
    pieces = _learn_pieces(words, vocab_size)
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normaliser
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(
        (SEP, vocabulary[SEP]), (CLS, vocabulary[CLS])
    )
    return FastTokeniser(
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token=PAD,
            unk_token=UNKNOWN,
            cls_token=CLS,
            sep_token=SEP,
            mask_token=MASK,
        )
    )


def spelling_texts() -> list[str]:
    """What to train a tokenizer on where nothing is read: a vocabulary of single characters, in
    which any English word can be spelt."""
    doubled = [2 * character for character in string.ascii_lowercase + string.digits]
    return [*doubled, string.punctuation]


class FastTokeniser:
    """A tokenizer of the `tokenizers` library; whole batches are encoded in Rust."""

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.is_fast:
            raise UserError(
                f"tokenizer {tokenizer.name_or_path!r} has no fast (Rust) form",
                where="data.tokenizer",
                fix="name one that has a tokenizer.json",
            )
        self.tokenizer = tokenizer
        self.vocab_size = len(tokenizer)
        self.cls_id = _first_id(tokenizer.cls_token_id, tokenizer.bos_token_id)
        self.mask_id = tokenizer.mask_token_id
        self.pad_id = _first_id(tokenizer.pad_token_id, tokenizer.eos_token_id) or 0
        self._special_ids = frozenset(tokenizer.all_special_ids)
        self.ordinary_ids = np.setdiff1d(np.arange(self.vocab_size), list(self._special_ids))

    def encode(self, texts: Sequence[str], max_tokens: int | None = None) -> list[Encoded]:
        backend = self.tokenizer.backend_tokenizer
        backend.no_padding()
        if max_tokens is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(max_tokens)
        return [
            Encoded(encoding.ids, self._words(encoding.ids, encoding.word_ids))
            for encoding in backend.encode_batch(list(texts))
        ]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def save(self, folder: str | Path) -> None:
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.save_pretrained(str(folder))
        special = {key: str(token) for key, token in self.tokenizer.special_tokens_map.items()}
        path = Path(folder) / "special_tokens_map.json"
        path.write_text(json.dumps(special, indent=2) + "\n")

    def _words(self, ids: list[int], word_ids: list[int | None]) -> list[int | None]:
        """An unknown word is one word with a number, but nothing could be learnt by hiding it."""
        return [
            None if token in self._special_ids else word
            for token, word in zip(ids, word_ids, strict=True)
        ]


class OpenClipTokeniser:
    """open_clip's byte-pair tokenizer. It has no mask token."""

    def __init__(self, model: str, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size
        self.mask_id: int | None = None
        self.pad_id = 0  # as open_clip pads; a padded place is never read
        self.cls_id: int | None = tokenizer.sot_token_id
        self.ordinary_ids = np.setdiff1d(np.arange(self.vocab_size), tokenizer.all_special_ids)

    def encode(self, texts: Sequence[str], max_tokens: int | None = None) -> list[Encoded]:
        longest = min(max_tokens or self.tokenizer.context_length, self.tokenizer.context_length)
        return [self._encode(text, longest) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        ordinary = [token for token in ids if token not in self.tokenizer.all_special_ids]
        return str(self.tokenizer.decode(ordinary)).strip()

    def save(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        record = {"tokenizer": OPEN_CLIP_PREFIX + self.model}
        (Path(folder) / OPEN_CLIP_FILE).write_text(json.dumps(record) + "\n")

    def _encode(self, text: str, longest: int) -> Encoded:
        pieces = self.tokenizer.encode(text)[: longest - 2]
        word_ids: list[int | None] = [None]
        word = 0
        for piece in pieces:
            word_ids.append(word)
            word += self.tokenizer.decoder[piece].endswith("</w>")
        ids = [self.tokenizer.sot_token_id, *pieces, self.tokenizer.eot_token_id]
        return Encoded(ids, [*word_ids, None])


def _load_open_clip(model: str) -> Tokeniser:
    import open_clip  # here: it takes seconds, and few runs need it

    known = open_clip.list_models()
    if model not in known and ":" not in model:
        near = difflib.get_close_matches(model, known) or ["ViT-B-32"]
        raise UserError(
            f"open_clip has no model {model!r}",
            where="data.tokenizer",
            fix="one of: " + ", ".join(OPEN_CLIP_PREFIX + name for name in near),
        )
    tokenizer = open_clip.get_tokenizer(model)
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        return OpenClipTokeniser(model, tokenizer)
    return FastTokeniser(tokenizer.tokenizer)


def _first_id(*candidates: int | None) -> int | None:
    return next((token for token in candidates if token is not None), None)


def _count_words(captions: Iterable[str], normaliser: Any, splitter: Any) -> Counter[str]:
    words: Counter[str] = Counter()
    for caption in captions:
        pairs = splitter.pre_tokenize_str(normaliser.normalize_str(caption))
        words.update(word for word, _ in pairs)
    return words


def _learn_pieces(words: Counter[str], vocab_size: int) -> list[str]:
    """WordPiece's pieces, special tokens first.

    The library's own WordPiece trainer numbers "##x" in the order of a hash map, another in each
    process, and breaks ties by number. Its byte-pair trainer sorts the alphabet, so the words are
    written in an alphabet where a character inside a word is another one than at its start.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_PAIR_COUNT,
        special_tokens=[PAD, UNKNOWN, CLS, SEP, MASK],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_repeat_words(words), trainer)
    ids = tokenizer.get_vocab()
    return [_plain_piece(piece) for piece in sorted(ids, key=ids.__getitem__)]


def _repeat_words(words: Counter[str]) -> Iterator[str]:
    for word, count in words.items():
        if all(ord(character) < INSIDE_WORD for character in word):
            inside = "".join(chr(ord(character) + INSIDE_WORD) for character in word[1:])
            # The trainer counts for itself; a line holds at most a thousand copies.
            for start in range(0, count, 1000):
                yield " ".join([word[0] + inside] * min(1000, count - start))


def _plain_piece(piece: str) -> str:
    plain = "".join(chr(ord(character) % INSIDE_WORD) for character in piece)
    return f"##{plain}" if ord(piece[0]) >= INSIDE_WORD else plain
