"""The objectives by name: a new one is a file, a builder here and a class in the configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING

from vlpretrain.config.schema import MimConfig, ObjectivesConfig
from vlpretrain.errors import UserError
from vlpretrain.objectives.base import Objective
from vlpretrain.objectives.itc import ImageTextContrast
from vlpretrain.objectives.itm import ImageTextMatching
from vlpretrain.objectives.mim import MaskedImageModelling
from vlpretrain.objectives.mlm import MaskedLanguageModelling
from vlpretrain.objectives.pretrain import PretrainTask, Schedule
from vlpretrain.objectives.visible_decoder import VisibleDecoder
from vlpretrain.pixels import num_hidden

if TYPE_CHECKING:
    from vlpretrain.models.vlmodel import VLModel

# Of the visible-only decoder (He et al. 2022, table 1: 512 wide with 16 heads).
DECODER_HEAD_WIDTH = 32


def create_pretrain_task(
    model: VLModel, config: ObjectivesConfig, temperature: float | None = None
) -> PretrainTask:
    """The task of a run; objectives whose weight is 0 are left out.

    Args:
        temperature: that the model has learned before; None: the configuration's.
    """
    settings = {item.name: getattr(config, item.name) for item in fields(config)}
    running = {name: item for name, item in settings.items() if item.weight != 0}
    schedules = {
        name: Schedule(item.weight, item.schedule.start, item.schedule.stop, item.schedule.ramp)
        for name, item in running.items()
    }
    return PretrainTask(
        model,
        {name: OBJECTIVES[name](model, config) for name in running},
        schedules,
        temperature=temperature or config.itc.temperature,
        share_image_pass=config.mim.image_pass == "shared",
        num_visible=num_visible_blocks(model.vision.image_size, config.mim),
    )


def num_visible_blocks(image_size: int, mim: MimConfig) -> int:
    """Mask blocks that the tower reads alone; 0 where it also reads a token for each hidden one.

    Raises:
        UserError: none would be left.
    """
    if mim.encode != "visible" or mim.weight == 0:
        return 0
    total = (image_size // mim.block) ** 2
    visible = total - num_hidden(mim.ratio, total)
    if visible == 0:
        raise UserError(
            f"{mim.ratio} hides all {total} blocks of a picture, and `visible` reads the others",
            where="objectives.mim.ratio",
            fix="a lower ratio, a smaller objectives.mim.block, or encode: mask_token",
        )
    return visible


def _mim(model: VLModel, config: ObjectivesConfig) -> Objective:
    vision, mim = model.vision, config.mim
    decoder = None
    if mim.encode == "visible":
        heads = max(1, mim.decoder_width // DECODER_HEAD_WIDTH)
        decoder = VisibleDecoder(
            vision.width, mim.decoder_width, mim.decoder_depth, heads, vision.grid
        )
    width = mim.decoder_width if decoder else vision.width
    return MaskedImageModelling(
        width, vision.stride, mim.block, mim.loss, mim.normalise_target, decoder
    )


def _itm(model: VLModel, config: ObjectivesConfig) -> Objective:
    return ImageTextMatching(config.itm.negatives, config.itm.hard_from)


def _itc(model: VLModel, config: ObjectivesConfig) -> Objective:
    return ImageTextContrast()


def _mlm(model: VLModel, config: ObjectivesConfig) -> Objective:
    return MaskedLanguageModelling(model.fusion.width, model.text.vocab_size)


OBJECTIVES: dict[str, Callable[[VLModel, ObjectivesConfig], Objective]] = {
    "mim": _mim,
    "itm": _itm,
    "itc": _itc,
    "mlm": _mlm,
}
