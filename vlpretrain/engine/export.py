"""Whole weights out of a sharded run, handed to whoever knows how to save the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlpretrain.distributed import is_main
from vlpretrain.engine.checkpoint import named_buffers, on_main
from vlpretrain.engine.run_folder import writing
from vlpretrain.engine.start import Engine

Save = Callable[[dict[str, Tensor], Path], None]


def export(engine: Engine, folder: Path, save: Save) -> None:
    """Hands the task's fp32 state dict to `save(state_dict, folder)` on rank 0. All ranks call.

    With an average of the weights, `folder` gets the average and `<folder>-last` the last weights.
    """
    if engine.average is None:
        _export(weights(engine), folder, save)
        return
    _export(weights(engine, averaged=True), folder, save)
    _export(weights(engine), folder.with_name(folder.name + "-last"), save)


def weights(engine: Engine, averaged: bool = False) -> dict[str, Tensor]:
    """The task's state dict in fp32 on the CPU of rank 0, empty elsewhere. All ranks call.

    Raises:
        ValueError: the average of a run that keeps none.
    """
    if averaged and engine.average is None:
        raise ValueError("this run keeps no average of its weights: train.ema is 0")
    source = engine.average.gather() if averaged and engine.average else None
    trained = dict(source or engine.masters.gather("master"))
    frozen = {
        name: _whole(parameter)
        for name, parameter in engine.task.named_parameters()
        if not parameter.requires_grad
    }
    if not is_main():
        return {}
    whole = {**trained, **frozen, **named_buffers(engine)}
    whole |= {name: whole[shared] for name, shared in _tied_names(engine.task).items()}
    return {name: tensor for name, tensor in whole.items() if tensor is not None}


def _tied_names(task: nn.Module) -> dict[str, str]:
    """Further names of parameters that have several, each with the name it is kept under."""
    first = {id(parameter): name for name, parameter in task.named_parameters()}
    every = task.named_parameters(remove_duplicate=False)
    return {name: first[id(p)] for name, p in every if first[id(p)] != name}


def _export(state_dict: dict[str, Tensor], folder: Path, save: Save) -> None:
    def write() -> None:
        with writing(folder):
            save(state_dict, folder)

    on_main(write)


def _whole(parameter: nn.Parameter) -> Tensor:
    """A frozen parameter, put together where ZeRO-3 has cut it."""
    if not hasattr(parameter, "ds_id"):
        return parameter.detach().float().cpu()
    import deepspeed  # takes seconds, so only here

    gathered: Any = deepspeed.zero.GatheredParameters([parameter])
    with gathered, torch.no_grad():
        return parameter.detach().float().cpu().clone()
