"""A tokenizer out of the captions of shards."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from data_tools.output import new_folder
from data_tools.progress import tracked
from data_tools.reading import open_shards, read_samples
from vlpretrain.data.sample import SampleError, parse_sample
from vlpretrain.data.tokenise import train_wordpiece
from vlpretrain.errors import UserError

TOKENIZER_FILES = (".json", ".txt")


def train_tokenizer(spec: str, out: Path, vocab_size: int, *, overwrite: bool = False) -> int:
    """Trains WordPiece on every caption and saves it to `out`; returns the vocabulary's size.

    Samples whose text can't be read are passed over; `validate` names them.
    """
    captions = _captions(spec)
    first = next(captions, None)
    if first is None:
        raise UserError("no caption in the shards", where=spec, fix="see `inspect`")
    with new_folder(out, overwrite=overwrite, replaceable=TOKENIZER_FILES) as folder:
        tokenizer = train_wordpiece(chain([first], captions), vocab_size)
        tokenizer.save(folder)
    return tokenizer.vocab_size


def _captions(spec: str) -> Iterator[str]:
    source = open_shards(spec)
    for raw in tracked(read_samples(source), "samples read", int(source.sizes.sum())):
        try:
            yield from parse_sample(raw).captions
        except SampleError:
            continue
