"""This project's step at the sizes of step.py."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.step_batch import PAD, Sizes
from vlpretrain.config.schema import (
    ItcConfig,
    ItmConfig,
    MimConfig,
    MlmConfig,
    ObjectivesConfig,
)
from vlpretrain.models.factory import create_model
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.objectives.pretrain import PretrainTask
from vlpretrain.objectives.table import create_pretrain_task


@dataclass(frozen=True)
class Recipe:
    """Which objectives run, and on which image pass."""

    objectives: tuple[str, ...] = ("mim", "itm", "itc", "mlm")
    shared: bool = True  # all objectives read the masked picture's pass
    visible: bool = False  # which holds visible patches alone


def ours(sizes: Sizes, recipe: Recipe) -> PretrainTask:
    """The task as a run builds it, with random weights."""
    model = create_model(model_spec(sizes))
    weight = {name: float(name in recipe.objectives) for name in ("mim", "itm", "itc", "mlm")}
    mim = MimConfig(
        weight=weight["mim"],
        block=sizes.block,
        ratio=sizes.mask_ratio,
        encode="visible" if recipe.visible else "mask_token",
        image_pass="shared" if recipe.shared else "separate",
    )
    objectives = ObjectivesConfig(
        mim=mim,
        itm=ItmConfig(weight=weight["itm"], hard_from=0.0),
        itc=ItcConfig(weight=weight["itc"]),
        mlm=MlmConfig(weight=weight["mlm"]),
    )
    return create_pretrain_task(model, objectives)


def model_spec(sizes: Sizes) -> ModelSpec:
    vision = VisionSpec(
        name="vit_small_patch16_224",
        image_size=sizes.image_size,
        block=sizes.block,
        depth=sizes.image_depth,
    )
    text = TextSpec(
        vocab_size=sizes.vocab_size,
        max_tokens=sizes.max_tokens,
        pad_id=PAD,
        depth=sizes.depth,
        width=sizes.width,
        heads=sizes.heads,
        dropout=sizes.dropout,
    )
    fusion = FusionSpec(
        depth=sizes.depth, width=sizes.width, heads=sizes.heads, dropout=sizes.dropout
    )
    return ModelSpec(vision, text, fusion, embed_dim=sizes.embed_dim)
