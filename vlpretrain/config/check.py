"""What the fields of a configuration must be together, said before anything is built."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from vlpretrain.config.deepspeed import split_batch, zero_settings
from vlpretrain.config.schema import ObjectivesConfig, RunConfig
from vlpretrain.errors import UserError

# The smallest and the largest value of a number.
LIMITS: dict[str, tuple[float, float]] = {
    "data.image_size": (1, 16_384),
    "data.vocab_size": (100, math.inf),
    "data.max_tokens": (3, math.inf),
    "data.shuffle_block": (1, math.inf),
    "data.workers": (0, math.inf),
    "data.prefetch": (1, math.inf),
    "data.max_pixels": (1, math.inf),
    "data.max_skipped": (0, 1),
    "data.cache_gigabytes": (0, math.inf),
    "model.embed_dim": (1, math.inf),
    "model.text.dropout": (0, 1),
    "model.fusion.dropout": (0, 1),
    "model.fusion.depth": (1, math.inf),
    "objectives.mim.block": (1, math.inf),
    "objectives.mim.ratio": (0, 1),
    "objectives.mlm.ratio": (0, 1),
    "objectives.itm.hard_from": (0, 1),
    "objectives.itc.temperature": (0.01, math.inf),
    "optim.lr": (0, math.inf),
    "optim.min_lr": (0, math.inf),
    "optim.warmup": (0, 1),
    "optim.hold": (0, 1),
    "optim.weight_decay": (0, math.inf),
    "optim.eps": (0, math.inf),
    "optim.clip": (0, math.inf),
    "optim.layer_decay": (0, 1),
    "optim.head_lr": (0, math.inf),
    "task.vqa.top_answers": (0, math.inf),
    "task.vqa.min_count": (1, math.inf),
    "task.vqa.min_coverage": (0, 1),
    "task.vqa.per_picture": (0, math.inf),
    "task.vqa.dropout": (0, 1),
    "task.vqa.decoder_depth": (1, math.inf),
    "task.vqa.max_answer_tokens": (3, math.inf),
    "task.vqa.beams": (1, 64),
    "task.vqa.rank_first": (1, math.inf),
    "task.classification.smoothing": (0, 1),
    "task.classification.drop": (0, 1),
    "task.classification.neighbours": (1, math.inf),
    "task.classification.temperature": (1e-4, math.inf),
    "train.steps": (0, math.inf),
    "train.global_batch": (1, math.inf),
    "train.micro_batch": (0, math.inf),
    "train.ema": (0, 1),
    "deepspeed.bucket_megabytes": (1, math.inf),
    "checkpoint.every": (1, math.inf),
    "checkpoint.keep": (1, math.inf),
    "log.every": (1, math.inf),
    "evaluation.every": (0, math.inf),
    "evaluation.samples": (0, math.inf),
    "evaluation.batch": (1, math.inf),
}


def check(config: RunConfig, world_size: int | None = None) -> None:
    """Raises the first of `problems`."""
    for problem in problems(config, world_size):
        raise problem


def check_evaluation(config: RunConfig) -> None:
    """Raises UserError where a configuration can't be evaluated: only its data, model and task
    matter."""
    if not config.data.val:
        raise UserError(
            "no held-out data", where="data.val", fix="give a folder of shards: --data.val DIR"
        )
    if not config.init:
        raise UserError(
            "no model to judge", where="init", fix="the export/ folder of a run: --init DIR"
        )
    if config.task.name == "pretrain":
        raise UserError(
            "a model leaves the heads of its pretraining behind: nothing is left to judge by them",
            where="task.name",
            fix="vqa, retrieval or classification; what data.val said of a pretraining stands in "
            "its report",
        )
    for problem in (*_not_finite(config, ""), *_out_of_range(config), *_task(config)):
        raise problem


def problems(config: RunConfig, world_size: int | None = None) -> list[UserError]:
    """Everything wrong with a configuration that is known without building it.

    Args:
        world_size: number of ranks; None leaves out what depends on it.
    """
    return [
        *_not_finite(config, ""),
        *_out_of_range(config),
        *_data(config),
        *_objectives(config),
        *_task(config),
        *_training(config),
        *_pictures(config),
        *_widths(config),
        *_length(config),
        *_deepspeed(config),
        *(_batch(config, world_size) if world_size else ()),
    ]


def active_objectives(objectives: ObjectivesConfig) -> list[str]:
    """The names of the objectives whose weight is not 0."""
    return [item.name for item in fields(objectives) if getattr(objectives, item.name).weight != 0]


def _not_finite(section: Any, prefix: str) -> Iterator[UserError]:
    for item in fields(section):
        value = getattr(section, item.name)
        if is_dataclass(value):
            yield from _not_finite(value, f"{prefix}{item.name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            yield UserError(f"{value} is not a finite number", where=prefix + item.name)


def _out_of_range(config: RunConfig) -> Iterator[UserError]:
    for path, (low, high) in LIMITS.items():
        value = operator.attrgetter(path)(config)
        if not low <= value <= high:
            upper = "" if high == math.inf else f" and at most {high:g}"
            yield UserError(f"{value} must be at least {low:g}{upper}", where=path)


def _data(config: RunConfig) -> Iterator[UserError]:
    data = config.data
    if not data.train:
        yield UserError(
            "no training data", where="data.train", fix="give a folder of shards: --data.train DIR"
        )
    if data.weights and len(data.weights) != len(data.train):
        yield UserError(
            f"{len(data.weights)} weights for {len(data.train)} sources",
            where="data.weights",
            fix="give one weight for each entry of data.train, or none",
        )
    if any(weight <= 0 or not math.isfinite(weight) for weight in data.weights):
        yield UserError(f"{list(data.weights)} must all be over 0", where="data.weights")
    smallest, largest = data.crop_area
    if not 0 < smallest <= largest <= 1:
        yield UserError(
            f"{[smallest, largest]} must be two shares of the area, 0 < smallest <= largest <= 1",
            where="data.crop_area",
        )


def _task(config: RunConfig) -> Iterator[UserError]:
    task, objectives = config.task, active_objectives(config.objectives)
    if task.name == "retrieval" and "itc" not in objectives:
        yield UserError(
            "retrieval compares embeddings, and nothing trains them",
            where="objectives.itc.weight",
            fix="a weight over 0",
        )
    if any(k < 1 for k in task.retrieval.k):
        yield UserError(f"{list(task.retrieval.k)} must be at least 1", where="task.retrieval.k")
    templates = task.classification.templates
    if not templates or any("{}" not in template for template in templates):
        yield UserError(
            f"{list(templates)}: a template needs the place of the class name",
            where="task.classification.templates",
            fix='such as "a photo of a {}."',
        )


def _training(config: RunConfig) -> Iterator[UserError]:
    mode = config.task.classification.mode
    if config.task.name == "classification" and mode in ("knn", "zero_shot"):
        yield UserError(
            f"{mode} trains nothing",
            where="task.classification.mode",
            fix="vlpretrain evaluate CONFIG --init EXPORT, or finetune or linear_probe",
        )


def trains_pairs(config: RunConfig) -> bool:
    """Whether the run's batches are pictures with captions, for the objectives."""
    return config.task.name in ("pretrain", "retrieval")


def _objectives(config: RunConfig) -> Iterator[UserError]:
    if not trains_pairs(config):
        return
    objectives = config.objectives
    for item in fields(objectives):
        weight = getattr(objectives, item.name).weight
        schedule = getattr(objectives, item.name).schedule
        where = f"objectives.{item.name}"
        if weight < 0:
            yield UserError(f"{weight} must be at least 0", where=f"{where}.weight")
        if not 0 <= schedule.start < schedule.stop <= 1 or not 0 <= schedule.ramp <= 1:
            yield UserError(
                f"start {schedule.start}, stop {schedule.stop}, ramp {schedule.ramp} must be "
                "shares of the run with start < stop",
                where=f"{where}.schedule",
            )
    if not active_objectives(objectives):
        yield UserError(
            "every objective has weight 0: there is nothing to train",
            where="objectives",
            fix="give one of mim, itm, itc, mlm a weight",
        )
    elif (gap := _idle(objectives)) is not None:
        yield UserError(
            f"no objective runs at {gap:g} of the run",
            where="objectives",
            fix="an earlier schedule.start, or a later schedule.stop, of one of them",
        )


def _idle(objectives: ObjectivesConfig) -> float | None:
    """The first share of the run at which no objective is on; None where there is always one."""
    spans = [getattr(objectives, name).schedule for name in active_objectives(objectives)]
    reached = 0.0
    for span in sorted(spans, key=lambda span: span.start):
        if span.start > reached:
            return reached
        reached = max(reached, span.stop)
    return reached if reached < 1 else None


def _pictures(config: RunConfig) -> Iterator[UserError]:
    size, patch = config.data.image_size, config.model.vision.patch
    mim = config.objectives.mim
    if config.init:
        return  # the export's own architecture is kept
    if patch and size % patch:
        yield UserError(
            f"a patch of {patch} pixels does not divide a picture of {size}",
            where="model.vision.patch",
            fix=f"image_size {nearest_multiple(size, patch)}, or another patch",
        )
    if not trains_pairs(config):
        return  # no picture is hidden
    if mim.weight and size % mim.block:
        yield UserError(
            f"a mask block of {mim.block} pixels does not divide a picture of {size}",
            where="objectives.mim.block",
            fix=f"image_size {nearest_multiple(size, mim.block)}, or another block",
        )
    if mim.weight and patch and mim.block % patch:
        yield UserError(
            f"a mask block of {mim.block} pixels is not a multiple of the patch of {patch}",
            where="objectives.mim.block",
            fix=f"block {nearest_multiple(mim.block, patch)}",
        )


def nearest_multiple(number: int, step: int) -> int:
    """The multiple of `step` nearest to `number`, at least `step`."""
    return max(1, round(number / step)) * step


def _widths(config: RunConfig) -> Iterator[UserError]:
    for name in ("text", "fusion", "vision"):
        tower = getattr(config.model, name)
        if tower.heads and tower.width and tower.width % tower.heads:
            yield UserError(
                f"{tower.heads} heads do not divide a width of {tower.width}",
                where=f"model.{name}.heads",
            )


def _length(config: RunConfig) -> Iterator[UserError]:
    if config.optim.min_lr > config.optim.lr:
        yield UserError(
            f"{config.optim.min_lr} is over the peak learning rate {config.optim.lr}",
            where="optim.min_lr",
        )
    if not config.train.steps and config.train.epochs <= 0:
        yield UserError(
            f"train.steps is 0 and train.epochs is {config.train.epochs}",
            where="train",
            fix="give either",
        )
    if not all(0 <= beta < 1 for beta in config.optim.betas):
        yield UserError(f"{list(config.optim.betas)} must both be in [0, 1)", where="optim.betas")


def _deepspeed(config: RunConfig) -> Iterator[UserError]:
    try:
        zero_settings(config.deepspeed, on_gpu=True)
    except UserError as error:
        yield error


def _batch(config: RunConfig, world_size: int) -> Iterator[UserError]:
    try:
        split = split_batch(config.train, world_size)
    except UserError as error:
        yield error
        return
    if trains_pairs(config) and config.objectives.itm.weight and split.micro_batch < 2:
        yield UserError(
            f"a micro-batch of {split.micro_batch} holds no negative pair to match against",
            where="train.micro_batch",
            fix="at least 2 samples for a rank's micro-batch, or objectives.itm.weight 0",
        )
