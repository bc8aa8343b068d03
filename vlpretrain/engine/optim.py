"""The optimiser's groups and the learning rate: pure functions of the model and of the step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from vlpretrain.config.schema import OptimConfig

# A parameter with one of these words in its last two names stands for positions, tokens or a
# temperature, whatever its number of dimensions.
NEVER_DECAYED = ("embed", "token", "pos", "relative_position", "temperature", "logit_scale", "cls")


def build_optimizer(
    task: nn.Module, optim: OptimConfig, scales: Mapping[str, float] | None = None
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, grouped by decay and by factor of the learning rate.

    Args:
        scales: factors by parameter name; 1 for the others. A group's stands as "lr_scale".
    """
    return torch.optim.AdamW(
        decay_groups(task, optim.weight_decay, scales),
        # DeepSpeed steps some optimisers with zero gradients when it starts; the loop sets the
        # rate before every real step.
        lr=0.0,
        betas=optim.betas,
        eps=optim.eps,
        fused=True,
    )


def decay_groups(
    task: nn.Module, weight_decay: float, scales: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms, embeddings, tokens and temperatures don't."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for owner, name, parameter in _owned_parameters(task):
        scale = (scales or {}).get(name, 1.0)
        key = (scale, not _decays(owner, name, parameter))
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": groups[key], "weight_decay": 0.0 if key[1] else weight_decay, "lr_scale": key[0]}
        for key in sorted(groups, key=lambda key: (-key[0], key[1]))
    ]


def learning_rate(step: int, total_steps: int, optim: OptimConfig) -> float:
    """Linear warm-up, the peak held, half a cosine to `min_lr`; at the step numbered from 0."""
    warmup_steps = round(optim.warmup * total_steps)
    if step < warmup_steps:
        return optim.lr * (step + 1) / warmup_steps
    start = min(total_steps - 1, warmup_steps + round(optim.hold * total_steps))
    share = max(0, step - start) / max(1, total_steps - start)
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
