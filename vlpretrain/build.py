"""From a run's configuration to its objects: the one module that sees every layer.

Everything below gets plain arguments; only here are the configuration's fields spread out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vlpretrain.config.check import active_objectives
from vlpretrain.config.schema import (
    DataConfig,
    MimConfig,
    ObjectivesConfig,
    RunConfig,
    TrainConfig,
)
from vlpretrain.data.loader import BatchMaker, Loader, LoaderSettings, evaluation_batches
from vlpretrain.data.order import SampleOrder
from vlpretrain.data.reader import ShardReader
from vlpretrain.data.sample import SampleError, parse_sample
from vlpretrain.data.shards import Source, open_source
from vlpretrain.data.tokenise import Tokeniser, load_tokeniser, train_wordpiece
from vlpretrain.data.transforms import SampleSettings
from vlpretrain.errors import UserError
from vlpretrain.models.factory import DESCRIPTION_FILE, create_model
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.models.vision import VisionTower
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.models.weights import load_weights, read_weights
from vlpretrain.objectives.itm import CHANCE_LOSS as ITM_CHANCE_LOSS
from vlpretrain.objectives.mim import hidden_distance, normalise_patches, target_of
from vlpretrain.objectives.pretrain import PretrainTask
from vlpretrain.objectives.table import create_pretrain_task
from vlpretrain.tasks.pretrain_evaluator import PretrainEvaluator
from vlpretrain.types import Batch

# Samples whose captions a tokenizer is trained on: a vocabulary changes little beyond.
TOKENIZER_SAMPLES = 100_000

# What stands for "trained here" in data.tokenizer.
TRAINED_HERE = "train"


# --- data -----------------------------------------------------------------------------------------


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
    """The named tokenizer, or one trained on the captions of the first `samples` samples."""
    if config.data.tokenizer != TRAINED_HERE:
        return load_tokeniser(config.data.tokenizer)
    if config.init:
        _check_export(config.init)
        return load_tokeniser(config.init)
    return train_wordpiece(read_captions(sources, samples), config.data.vocab_size)


def read_captions(sources: Sequence[Source], samples: int) -> Iterator[str]:
    """Captions of samples spread over all sources; samples that can't be parsed are left out."""
    order = build_order(sources, DataConfig(shuffle_block=1), seed=0)
    reader = ShardReader(sources)
    for position in order.locate(0, min(samples, order.epoch_length)):
        try:
            yield from parse_sample(reader.read(position)).captions
        except SampleError:
            continue
    reader.close()


def build_order(sources: Sequence[Source], data: DataConfig, seed: int) -> SampleOrder:
    return SampleOrder(
        [source.sizes.tolist() for source in sources],
        weights=data.weights,
        seed=seed,
        shuffle=data.shuffle,
        block=data.shuffle_block,
    )


def build_batch_maker(
    config: RunConfig, sources: Sequence[Source], tokeniser: Tokeniser
) -> BatchMaker:
    order = build_order(sources, config.data, config.train.seed)
    reader = ShardReader(sources, ahead=order.shards_ahead)
    return BatchMaker(order, reader, tokeniser, sample_settings(config))


def build_loader(
    config: RunConfig,
    sources: Sequence[Source],
    tokeniser: Tokeniser,
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
    return Loader(build_batch_maker(config, sources, tokeniser), settings, rank, world_size)


def build_evaluator(config: RunConfig, tokeniser: Tokeniser) -> PretrainEvaluator | None:
    """The look at data.val; None where there is none."""
    if not config.data.val:
        return None
    batches = HeldOut(config, open_sources(config.data.val, config.data), tokeniser)
    return PretrainEvaluator(batches, tokeniser.decode)


class HeldOut:
    """The batches of the first held-out samples, the same each time they are gone through."""

    def __init__(self, config: RunConfig, sources: Sequence[Source], tokeniser: Tokeniser) -> None:
        in_order = replace(config.data, weights=(), shuffle=False)
        self.maker = build_batch_maker(replace(config, data=in_order), sources, tokeniser)
        self.samples, self.batch = config.evaluation.samples, config.evaluation.batch

    def __iter__(self) -> Iterator[Batch]:
        return evaluation_batches(self.maker, samples=self.samples, batch=self.batch)


def sample_settings(config: RunConfig) -> SampleSettings:
    data, objectives = config.data, config.objectives
    return SampleSettings(
        image_size=data.image_size,
        crop=data.crop,
        crop_area=data.crop_area,
        flip=data.flip,
        decode=data.decode,
        caption=data.caption,
        max_tokens=data.max_tokens,
        max_pixels=data.max_pixels,
        block=mask_block(objectives, data.image_size),
        block_ratio=objectives.mim.ratio if objectives.mim.weight else 0.0,
        word_ratio=objectives.mlm.ratio if objectives.mlm.weight else 0.0,
        whole_words=objectives.mlm.whole_words,
        seed=config.train.seed,
    )


def mask_block(objectives: ObjectivesConfig, image_size: int) -> int:
    """Side of a mask block in pixels; the whole picture where nothing is hidden."""
    return objectives.mim.block if objectives.mim.weight else image_size


def count_steps(train: TrainConfig, samples_per_epoch: int) -> int:
    """Optimiser steps of the run, at least one."""
    samples = train.epochs * samples_per_epoch
    return train.steps or max(1, math.ceil(samples / train.global_batch - 1e-9))


# --- model ----------------------------------------------------------------------------------------


def model_spec(config: RunConfig, tokeniser: Tokeniser) -> ModelSpec:
    data, model = config.data, config.model
    vision = VisionSpec(
        name=model.vision.name,
        image_size=data.image_size,
        block=mask_block(config.objectives, data.image_size),
        weights=model.vision.weights,
        depth=model.vision.depth,
        width=model.vision.width,
        heads=model.vision.heads,
        patch=model.vision.patch,
        drop_path=model.vision.drop_path,
        position=model.vision.position,
    )
    text = TextSpec(
        name=model.text.name,
        weights=model.text.weights,
        vocab_size=tokeniser.vocab_size,
        max_tokens=data.max_tokens,
        pad_id=tokeniser.pad_id,
        depth=model.text.depth,
        width=model.text.width,
        heads=model.text.heads,
        dropout=model.text.dropout,
    )
    fusion = FusionSpec(
        kind=model.fusion.kind,
        depth=model.fusion.depth,
        width=model.fusion.width,
        heads=model.fusion.heads,
        dropout=model.fusion.dropout,
    )
    return ModelSpec(vision, text, fusion, model.embed_dim)


def build_model(config: RunConfig, tokeniser: Tokeniser) -> VLModel:
    """The model with the weights that the configuration asks for; random ones by its seed."""
    torch.manual_seed(config.train.seed)
    model = create_model(model_spec(config, tokeniser))
    if config.init:
        _start_from(model, config.init)
    return model


def _check_export(folder: str) -> None:
    if not (Path(folder) / DESCRIPTION_FILE).is_file():
        raise UserError(
            f"no exported model: the folder holds no {DESCRIPTION_FILE}",
            where=f"init {folder}",
            fix="give the export/ folder of a run",
        )


def _start_from(model: VLModel, export_folder: str) -> None:
    _check_export(export_folder)
    report = load_weights(model, read_weights(export_folder), source=export_folder)
    if report.missing or report.mismatched:
        raise UserError(
            f"the weights do not fit the model\n{report}",
            where=f"init {export_folder}",
            fix="use the model section of the configuration that made them",
        )


def build_task(config: RunConfig, tokeniser: Tokeniser) -> PretrainTask:
    """Model and objectives under one forward."""
    return create_pretrain_task(build_model(config, tokeniser), config.objectives)


def chance_levels(config: RunConfig, task: PretrainTask, batch: Batch) -> dict[str, float]:
    """What each loss is for a model that has learnt nothing of its question, by metric name.

    Args:
        batch: some training samples; masked images are compared with each picture's mean colour.
    """
    levels = {
        "loss/itm": ITM_CHANCE_LOSS,
        "loss/itc": math.log(config.train.global_batch),
        "loss/mlm": math.log(task.model.text.vocab_size),
        "val/itm_accuracy": 0.5,
    }
    if config.objectives.mim.weight and batch.image_present_B.any():
        levels["loss/mim"] = mean_colour_loss(config.objectives.mim, task.model.vision, batch)
    active = active_objectives(config.objectives)
    return {
        name: level
        for name, level in levels.items()
        if any(name.split("/")[1].startswith(objective) for objective in active)
    }


def mean_colour_loss(mim: MimConfig, vision: VisionTower, batch: Batch) -> float:
    """The masked-image loss of predicting each picture's mean visible colour."""
    target = target_of(batch, vision, mim.block, everywhere=False)
    count = target.hidden_K1S.sum() * target.colour_KCS.shape[1]
    if mim.normalise_target:
        target = normalise_patches(target)
    return float(hidden_distance(target.mean_KC1, target, mim.loss) / count)


def checkpoint_activations(task: nn.Module) -> None:
    """Has the towers and the fusion recompute their layers in the backward pass."""
    assert isinstance(task, PretrainTask)
    task.model.set_checkpointing(True)


def compile_task(task: nn.Module) -> None:
    """torch.compile for the layers of the towers and the fusion."""
    assert isinstance(task, PretrainTask)
    task.model.compile_blocks()


def save_model(
    task: PretrainTask, tokenizer_folder: Path, state_dict: dict[str, Tensor], folder: Path
) -> None:
    """Writes the model of a task's whole state dict as `VLModel.from_pretrained` reads it."""
    weights = {
        name.removeprefix("model."): tensor
        for name, tensor in state_dict.items()
        if name.startswith("model.")
    }
    task.model.save_pretrained(folder, tokenizer_folder, state=weights)
