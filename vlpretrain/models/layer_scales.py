"""Learning rates by depth: lower layers of a pretrained tower learn more slowly.

Layer-wise decay (Clark et al. 2020; SimMIM, Xie et al. 2022, fine-tunes with it): with L blocks,
block i (from 0) learns at decay^(L - i) of the rate, what stands before the blocks at
decay^(L + 1), and what stands behind them at the whole rate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from vlpretrain.errors import UserError
from vlpretrain.models.vlmodel import VLModel

# A block's number in the names of timm, open_clip and transformers; in staged backbones (Swin,
# ConvNeXt, ResNet) that of its stage, then its own there. What leads into a stage counts as part of
# the stage's first block.
_BLOCK = re.compile(
    r"(?:^|\.)(?:blocks|block|resblocks|layers|layer|stages|h)\.(\d+)"
    r"(?:\.(?:blocks\.|layers\.)?(\d+))?\."
    r"|(?:^|\.)layer(\d+)\.(\d+)\."
)
# Stand before the blocks wherever their module keeps them.
_EMBEDDING = re.compile(r"embed|token|^position\.")


class _Place(NamedTuple):
    """Stage and block; blocks that are not in stages are the first of theirs."""

    stage: int
    block: int


def layer_scales(model: VLModel, task: nn.Module, *, decay: float, head: float) -> dict[str, float]:
    """Factors of the learning rate by parameter name of `task`; those left out have 1.

    Args:
        model: the task's model, whose towers' layers are scaled.
        head: factor of what is the task's own, outside the model.

    Raises:
        UserError: a tower that is trained has no blocks that could be told apart.
    """
    in_towers: dict[int, float] = {}
    if decay != 1.0:
        for tower in (model.vision, model.text):
            in_towers |= {id(parameter): scale for parameter, scale in _scales(tower, decay)}
    in_model = {id(parameter) for parameter in model.parameters()}
    scales = {
        name: in_towers.get(id(parameter), 1.0) if id(parameter) in in_model else head
        for name, parameter in task.named_parameters()
        if parameter.requires_grad
    }
    return {name: scale for name, scale in scales.items() if scale != 1.0}


def _scales(tower: nn.Module, decay: float) -> Iterator[tuple[nn.Parameter, float]]:
    names = dict(tower.named_parameters())
    if not any(parameter.requires_grad for parameter in names.values()):
        return
    places = {name: _place(name) for name in names}
    order = sorted({place for place in places.values() if place is not None})
    if not order:
        raise UserError(
            f"the layers of {type(tower).__name__} can't be told apart by the names of its weights",
            where="optim.layer_decay",
            fix="optim.layer_decay 1",
        )
    passed = False  # the last block; a module is registered in the order that it runs in
    for name, parameter in names.items():
        place = places[name]
        passed = passed or place == order[-1]
        if place is not None:
            yield parameter, decay ** (len(order) - order.index(place))
        else:
            behind = passed and not _EMBEDDING.search(name)
            yield parameter, 1.0 if behind else decay ** (len(order) + 1)


def _place(name: str) -> _Place | None:
    """None outside the blocks."""
    found = _BLOCK.search(name)
    if found is None:
        return None
    first, second = (found[1], found[2]) if found[1] is not None else (found[3], found[4])
    return _Place(int(first), int(second or 0))
