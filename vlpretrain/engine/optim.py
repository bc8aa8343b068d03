"""The optimiser's groups and the learning rate: pure functions of the model and of the step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from vlpretrain.config.schema import OptimConfig

# A parameter with one of these words in its last two names stands for positions, tokens or a
# temperature, whatever its number of dimensions.
NEVER_DECAYED = ("embed", "token", "pos", "relative_position", "temperature", "logit_scale", "cls")


def build_optimizer(task: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, in a decayed and an undecayed group."""
    return torch.optim.AdamW(
        decay_groups(task, optim.weight_decay),
        # DeepSpeed steps some optimisers with zero gradients when it starts; the loop sets the
        # rate before every real step.
        lr=0.0,
        betas=optim.betas,
        eps=optim.eps,
        fused=True,
    )


def decay_groups(task: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms, embeddings, tokens and temperatures don't."""
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for owner, name, parameter in _owned_parameters(task):
        (decayed if _decays(owner, name, parameter) else undecayed).append(parameter)
    groups = [(decayed, weight_decay), (undecayed, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


def learning_rate(step: int, total_steps: int, optim: OptimConfig) -> float:
    """Linear warm-up, then half a cosine to `min_lr`, at the step numbered from 0."""
    warmup_steps = round(optim.warmup * total_steps)
    if step < warmup_steps:
        return optim.lr * (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return optim.min_lr + (optim.lr - optim.min_lr) * (1 + math.cos(math.pi * share)) / 2


def _owned_parameters(task: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Every trainable parameter once, with the module that owns it and its full name."""
    seen: set[int] = set()
    for prefix, owner in task.named_modules():
        for name, parameter in owner.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield owner, name, parameter


def _decays(owner: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    if parameter.ndim < 2 or isinstance(owner, nn.Embedding):
        return False
    own_name = name.rpartition(".")[2]
    return not any(word in own_name for word in NEVER_DECAYED)
