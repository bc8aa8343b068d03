"""Sources, their order and the loader, from the configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from vlpretrain.config.check import active_objectives
from vlpretrain.config.schema import DataConfig, RunConfig, TrainConfig
from vlpretrain.data.held_out import HeldOut
from vlpretrain.data.loader import BatchMaker, Loader, LoaderSettings, Recipe, evaluation_batches
from vlpretrain.data.order import SampleOrder
from vlpretrain.data.questions import read_questions
from vlpretrain.data.reader import ShardReader
from vlpretrain.data.sample import SampleError, parse_sample
from vlpretrain.data.shards import Source, open_source
from vlpretrain.data.tokenise import Tokeniser, load_tokeniser, spelling_texts, train_wordpiece
from vlpretrain.data.transforms import PictureSettings
from vlpretrain.errors import UserError
from vlpretrain.models.factory import DESCRIPTION_FILE

# Samples whose captions a tokenizer is trained on: a vocabulary changes little beyond.
TOKENIZER_SAMPLES = 100_000

# What stands for "trained here" in data.tokenizer.
TRAINED_HERE = "train"


def open_sources(specs: Sequence[str], data: DataConfig) -> list[Source]:
    """The sources, indexed; raises UserError where one holds no shard or no sample."""
    sources = [open_source(spec, data) for spec in specs]
    for source in sources:
        if not source.sizes.any():
            reasons = "".join(f"\n  {skip.shard}: {skip.reason}" for skip in source.problems[:3])
            raise UserError(
                f"no sample in {len(source.shards)} shards{reasons}",
                where=source.spec,
                fix="python -m data_tools validate names every problem",
            )
    return sources


def build_tokeniser(
    config: RunConfig, sources: Sequence[Source], samples: int = TOKENIZER_SAMPLES
) -> Tokeniser:
    """That of `init`, the named tokenizer, or one trained on the texts of the first `samples`
    samples; where there is none and the run reads none, one of single characters."""
    if config.init:
        check_export(config.init)
        return load_tokeniser(config.init)
    if config.data.tokenizer != TRAINED_HERE:
        return load_tokeniser(config.data.tokenizer)
    words = read_words(sources, samples)
    first = next(words, None)
    if first is None and not reads_texts(config):
        return train_wordpiece(spelling_texts(), config.data.vocab_size)
    texts = words if first is None else chain([first], words)
    return train_wordpiece(texts, config.data.vocab_size)


def reads_texts(config: RunConfig) -> bool:
    """Whether anything is learnt from texts."""
    if config.task.name == "pretrain":
        return active_objectives(config.objectives) != ["mim"]
    return config.task.name != "classification"


def check_export(folder: str) -> None:
    """Raises UserError where a folder is no exported model."""
    if not (Path(folder) / DESCRIPTION_FILE).is_file():
        raise UserError(
            f"no exported model: the folder holds no {DESCRIPTION_FILE}",
            where=f"init {folder}",
            fix="give the export/ folder of a run",
        )


def read_words(sources: Sequence[Source], samples: int) -> Iterator[str]:
    """Captions, questions and answers of samples spread over all sources; samples that can't be
    parsed are left out."""
    order = build_order(sources, DataConfig(shuffle_block=1), seed=0)
    reader = ShardReader(sources)
    for position in order.locate(0, min(samples, order.epoch_length)):
        try:
            sample = parse_sample(reader.read_texts(position))
            questions = read_questions(sample)
        except SampleError:
            continue
        yield from sample.captions
        for question in questions:
            yield question.text
            yield from dict.fromkeys(question.answers)
    reader.close()


def build_order(sources: Sequence[Source], data: DataConfig, seed: int) -> SampleOrder:
    return SampleOrder(
        [source.sizes.tolist() for source in sources],
        weights=data.weights,
        seed=seed,
        shuffle=data.shuffle,
        block=data.shuffle_block,
    )


def build_batch_maker(config: RunConfig, sources: Sequence[Source], recipe: Recipe) -> BatchMaker:
    order = build_order(sources, config.data, config.train.seed)
    reader = ShardReader(sources, ahead=order.shards_ahead)
    return BatchMaker(order, reader, recipe)


def build_loader(
    config: RunConfig,
    sources: Sequence[Source],
    recipe: Recipe,
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    """One rank's share of the global batches."""
    settings = LoaderSettings(
        global_batch=config.train.global_batch,
        micro_batch=config.train.micro_batch,
        workers=config.data.workers,
        prefetch=config.data.prefetch,
        max_skipped=config.data.max_skipped,
    )
    return Loader(build_batch_maker(config, sources, recipe), settings, rank, world_size)


class HeldOutBatches:
    """The batches of the first held-out samples, the same each time they are gone through."""

    def __init__(self, config: RunConfig, sources: Sequence[Source], recipe: Recipe) -> None:
        in_order = replace(config.data, weights=(), shuffle=False)
        self.maker = build_batch_maker(replace(config, data=in_order), sources, recipe)
        self.samples, self.batch = config.evaluation.samples, config.evaluation.batch

    def __iter__(self) -> Iterator[Any]:
        return evaluation_batches(self.maker, samples=self.samples, batch=self.batch)


def picture_settings(config: RunConfig) -> PictureSettings:
    data = config.data
    return PictureSettings(
        image_size=data.image_size,
        crop=data.crop,
        crop_area=data.crop_area,
        flip=data.flip,
        decode=data.decode,
        max_pixels=data.max_pixels,
        seed=config.train.seed,
    )


def open_held_out(config: RunConfig) -> HeldOut:
    """The samples of data.val."""
    sources = open_sources(config.data.val, config.data)
    return HeldOut(sources, picture_settings(config), config.evaluation.samples)


def count_steps(train: TrainConfig, samples_per_epoch: int) -> int:
    """Optimiser steps of the run, at least one."""
    samples = train.epochs * samples_per_epoch
    return train.steps or max(1, math.ceil(samples / train.global_batch - 1e-9))
