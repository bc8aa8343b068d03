"""Image backbones of timm and open_clip, and what a tower must know of each."""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import timm
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer as ClipVisionTransformer
from timm.layers import DropPath, PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vlpretrain.errors import UserError
from vlpretrain.models.spec import VisionSpec
from vlpretrain.models.weights import WeightReport, load_weights, read_weights

OPEN_CLIP = "open_clip:"
# What libraries raise when a hub cannot be reached or does not have the file.
HUB_ERRORS = (OSError, ValueError, RuntimeError)


@dataclass(frozen=True)
class PatchInput:
    """Where a backbone cuts the picture into patches: the place of the mask token."""

    module: nn.Module
    patch: int  # pixels
    width: int
    channel_dim: int  # of the module's output: 1 (B C H W) or -1 (B N C, B H W C)


@dataclass(frozen=True)
class Backbone:
    """A network from pixels to a feature map or tokens, described.

    Its output is tokens [B, prefix + N, D], a map [B, D, h, w] or [B, h, w, D], or open_clip's
    pair (class token [B, D], tokens [B, N, D]).
    """

    module: nn.Module
    width: int
    stride: int  # pixels a token
    num_prefix: int
    has_class_token: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    patch_input: PatchInput | None  # None: hidden parts are blanked in the picture instead
    patch_drop: str  # name of the module between position embedding and blocks; "": there is none
    report: WeightReport | None = None


def build_backbone(spec: VisionSpec) -> Backbone:
    """The backbone that `spec` names, with its weights.

    Raises:
        UserError: unknown name, sizes that do not fit, weights that cannot be had.
    """
    if spec.name.startswith(OPEN_CLIP):
        return _open_clip_backbone(spec)
    return _timm_backbone(spec)


def _timm_backbone(spec: VisionSpec) -> Backbone:
    _check_timm_name(spec.name)
    from_hub = spec.weights == "pretrained"
    report: WeightReport | None
    try:
        module: Any = timm.create_model(
            spec.name, pretrained=from_hub, num_classes=0, global_pool="", **_timm_sizes(spec)
        )
    except (TypeError, AssertionError, *HUB_ERRORS) as error:
        raise UserError(
            f"timm could not make {spec.name!r}: {type(error).__name__}: {error}",
            where="vision.name",
            fix=_timm_fix(spec, from_hub),
        ) from error
    if not spec.drop_path:
        _drop_no_path(module)
    if from_hub:
        report = WeightReport(f"{spec.name} (timm hub)", len(module.state_dict()))
    else:
        report = _load_local(module, spec)
    return _describe_timm(module, report)


def _timm_fix(spec: VisionSpec, from_hub: bool) -> str:
    if from_hub:
        return "check the connection, or give a local file as vision.weights"
    if spec.depth or spec.width or spec.heads or spec.patch:
        return "depth, width, heads and patch are for a ViT, and heads must divide width"
    return f"another name, or a picture size it takes (now {spec.image_size} px)"


def _timm_sizes(spec: VisionSpec) -> dict[str, Any]:
    sizes: dict[str, Any] = {
        "depth": spec.depth,
        "embed_dim": spec.width,
        "num_heads": spec.heads,
        "patch_size": spec.patch,
        "drop_path_rate": spec.drop_path,
    }
    sizes = {name: value for name, value in sizes.items() if value}
    known = timm.models.get_pretrained_cfg(spec.name)
    if known is not None and known.fixed_input_size:
        sizes["img_size"] = spec.image_size
    return sizes


def _drop_no_path(module: nn.Module) -> None:
    """Swin's own rate is 0.1, and not every model takes a rate of 0 as an argument."""
    for layer in module.modules():
        if isinstance(layer, DropPath):
            layer.drop_prob = 0.0


def _check_timm_name(name: str) -> None:
    bare = name.split(".")[0]
    if timm.is_model(bare):
        return
    near = difflib.get_close_matches(bare, timm.list_models(), n=5, cutoff=0.4)
    raise UserError(
        f"timm has no model {name!r}",
        where="vision.name",
        fix=f"the nearest names: {', '.join(near)}" if near else "a name of timm.list_models()",
    )


def _describe_timm(module: Any, report: WeightReport | None) -> Backbone:
    config = module.pretrained_cfg
    is_vit = isinstance(module, VisionTransformer)
    num_prefix = module.num_prefix_tokens if hasattr(module, "num_prefix_tokens") else 0
    return Backbone(
        module=module,
        width=module.num_features,
        stride=module.feature_info[-1]["reduction"],
        num_prefix=num_prefix,
        has_class_token=num_prefix > 0 and module.cls_token is not None,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        patch_input=_timm_patch_input(module),
        patch_drop="patch_drop" if is_vit and _timm_patch_input(module) else "",
        report=report,
    )


def _timm_patch_input(module: Any) -> PatchInput | None:
    """None for overlapping stems: a mask token there would see into hidden neighbours."""
    embed = module.patch_embed if hasattr(module, "patch_embed") else None
    if not isinstance(embed, PatchEmbed) or embed.proj.kernel_size != embed.proj.stride:
        return None
    return PatchInput(embed, embed.patch_size[0], embed.proj.out_channels, channel_dim=-1)


def _load_local(module: nn.Module, spec: VisionSpec) -> WeightReport | None:
    if not spec.weights:
        return None
    library = sys.modules[type(module).__module__]
    convert = library.checkpoint_filter_fn if hasattr(library, "checkpoint_filter_fn") else None
    return load_weights(module, read_weights(spec.weights), spec.weights, convert)


def _open_clip_backbone(spec: VisionSpec) -> Backbone:
    model, report = create_open_clip(spec.name, spec.weights, spec.image_size)
    visual = model.visual
    if isinstance(visual, TimmModel):
        visual.trunk.reset_classifier(0, "")
        return _describe_timm(visual.trunk, report)
    if isinstance(visual, ModifiedResNet):
        visual.attnpool = nn.Identity()
        return _describe_open_clip(visual, visual.layer4[-1].bn3.num_features, 32, report)
    if not isinstance(visual, ClipVisionTransformer) or visual.attn_pool is not None:
        raise UserError(
            f"the image tower of {spec.name!r} pools its tokens away",
            where="vision.name",
            fix="a CLIP model without attentional pooling, such as open_clip:ViT-B-32",
        )
    visual.proj = None
    visual.output_tokens = True
    return _describe_open_clip(
        visual, visual.conv1.out_channels, visual.conv1.kernel_size[0], report
    )


def _describe_open_clip(
    visual: Any, width: int, stride: int, report: WeightReport | None
) -> Backbone:
    is_vit = isinstance(visual, ClipVisionTransformer)
    return Backbone(
        module=visual,
        width=width,
        stride=stride,
        num_prefix=1 if is_vit else 0,
        has_class_token=is_vit,
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
        patch_input=PatchInput(visual.conv1, stride, width, channel_dim=1) if is_vit else None,
        patch_drop="patch_dropout" if is_vit else "",
        report=report,
    )


def create_open_clip(
    name: str, weights: str, image_size: int | None = None
) -> tuple[nn.Module, WeightReport | None]:
    """A whole open_clip model with its text tower apart, so that either tower can be taken.

    Args:
        name: "open_clip:MODEL".
        weights: empty, a tag of open_clip's hub ("pretrained": its first), or a local file.
    """
    model_name = name.removeprefix(OPEN_CLIP)
    if model_name not in open_clip.list_models():
        near = difflib.get_close_matches(model_name, open_clip.list_models(), n=5, cutoff=0.4)
        raise UserError(
            f"open_clip has no model {model_name!r}",
            where="model",
            fix=f"the nearest names: {', '.join(near)}",
        )
    tag = weights
    if weights == "pretrained":
        tag = next(iter(open_clip.list_pretrained_tags_by_model(model_name)), "")
    if tag and Path(tag).is_dir():
        tag = str(next(iter(sorted(Path(tag).glob("*.safetensors"))), tag))
    try:
        model = open_clip.create_model(
            model_name,
            pretrained=tag or None,
            force_image_size=image_size,
            force_custom_text=True,
        )
    except HUB_ERRORS as error:
        raise UserError(
            f"open_clip could not make {model_name!r} with weights {tag!r}: {error}",
            where="model",
            fix="check the connection, or give a local file as weights",
        ) from error
    report = WeightReport(f"{model_name} ({tag})", len(model.state_dict())) if tag else None
    return model, report
