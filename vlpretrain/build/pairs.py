"""Pretraining and retrieval: pictures with captions under the objectives."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from vlpretrain.build.data import HeldOutBatches, open_sources
from vlpretrain.build.kit import TaskKit
from vlpretrain.build.model import build_model, hides_pictures, mask_block, read_training
from vlpretrain.config.check import active_objectives
from vlpretrain.config.schema import MimConfig, RunConfig
from vlpretrain.data.collate import PairRecipe
from vlpretrain.data.transforms import SampleSettings
from vlpretrain.models.vision import VisionTower
from vlpretrain.objectives.itc import temperature_of
from vlpretrain.objectives.itm import CHANCE_LOSS as ITM_CHANCE_LOSS
from vlpretrain.objectives.mim import hidden_distance, normalise_patches, target_of
from vlpretrain.objectives.pretrain import PretrainTask
from vlpretrain.objectives.table import create_pretrain_task
from vlpretrain.tasks.pretrain_evaluator import PretrainEvaluator
from vlpretrain.types import Batch, Evaluator


class PretrainKit(TaskKit):
    """The objectives, judged by all of them."""

    def recipe(self) -> PairRecipe:
        return PairRecipe(self.tokeniser, sample_settings(self.config))

    def task(self) -> PretrainTask:
        model = build_model(self.config, self.tokeniser)
        training = read_training(self.config.init) if self.config.init else None
        return create_pretrain_task(
            model, self.config.objectives, training.temperature if training else None
        )

    def learned_temperature(self, state_dict: dict[str, Tensor]) -> float | None:
        return temperature_of(state_dict["temperature.log_scale"])

    def evaluator(self) -> Evaluator | None:
        if not self.config.data.val:
            return None
        sources = open_sources(self.config.data.val, self.config.data)
        batches = HeldOutBatches(self.config, sources, self.recipe())
        return PretrainEvaluator(batches, self.tokeniser.decode)

    def chance(self, task: nn.Module, batch: Any) -> dict[str, float]:
        assert isinstance(task, PretrainTask)
        return chance_levels(self.config, task, batch)


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
        block=mask_block(config),
        block_ratio=objectives.mim.ratio if hides_pictures(config) else 0.0,
        word_ratio=objectives.mlm.ratio if objectives.mlm.weight else 0.0,
        whole_words=objectives.mlm.whole_words,
        seed=config.train.seed,
    )


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
