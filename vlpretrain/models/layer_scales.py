"""Learning rates by depth: lower layers of a pretrained tower learn more slowly.

Layer-wise decay (Clark et al. 2020; SimMIM, Xie et al. 2022, fine-tunes with it): with L blocks,
block i (from 0) learns at decay^(L - i) of the rate, what stands before the blocks at
decay^(L + 1), and what stands behind them at the whole rate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from vlpretrain.models.vlmodel import VLModel

# A block's place in the names of timm, open_clip and transformers. Staged backbones (Swin,
# ConvNeXt, ResNet) count stage by stage: the second number is the block of its stage.
_BLOCK = re.compile(
    r"(?:^|\.)(?:blocks|resblocks|layer|layers|stages)\.(\d+)(?:\.(?:blocks|layers)\.(\d+))?\."
    r"|(?:^|\.)layer([1-4])\.(\d+)\."
)
# What stands behind the blocks.
_BEHIND = re.compile(r"(?:^|\.)(?:norm|ln_post|ln_final|head|fc_norm|norm_pre|pooler)(?:\.|$)")


def layer_scales(model: VLModel, task: nn.Module, *, decay: float, head: float) -> dict[str, float]:
    """Factors of the learning rate by parameter name of `task`; those left out have 1.

    Args:
        model: the task's model, whose towers' layers are scaled.
        head: factor of what is the task's own, outside the model.
    """
    towers = {id(p): scale for p, scale in _tower_scales(model, decay)}
    known = {id(parameter) for parameter in model.parameters()}
    scales = {
        name: towers.get(id(parameter), 1.0) if id(parameter) in known else head
        for name, parameter in task.named_parameters()
    }
    return {name: scale for name, scale in scales.items() if scale != 1.0}


def _tower_scales(model: VLModel, decay: float) -> Iterable[tuple[nn.Parameter, float]]:
    if decay == 1.0:
        return
    for tower in (model.vision, model.text):
        names = dict(tower.named_parameters())
        places = {name: _place(name) for name in names}
        order = sorted({place for place in places.values() if place is not None})
        for name, parameter in names.items():
            yield parameter, decay ** _from_top(name, places[name], order)


def _from_top(name: str, place: tuple[int, int] | None, order: list[tuple[int, int]]) -> int:
    if place is not None:
        return len(order) - order.index(place)
    return 0 if _BEHIND.search(name) else len(order) + 1


def _place(name: str) -> tuple[int, int] | None:
    """Stage and block of a parameter; None outside the blocks."""
    found = _BLOCK.search(name)
    if found is None:
        return None
    first, second = (found[1], found[2]) if found[1] is not None else (found[3], found[4])
    return int(first), int(second or 0)
