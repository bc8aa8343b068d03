"""What a step will cost: FLOPs counted and activations weighed on a few real samples, in fp32.

Backward is twice the forward's FLOPs: each product of two matrices has two in its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vlpretrain.config.schema import DeepSpeedConfig, TrainConfig
from vlpretrain.objectives.pretrain import PretrainTask, Schedule
from vlpretrain.types import MicroBatch

FORWARD_AND_BACKWARD = 3
RECOMPUTED = 4  # with activation checkpointing, the forward comes twice


@dataclass(frozen=True)
class Measured:
    """What one sample costs: FLOPs of a training step, and activations kept for the backward."""

    flops_by_part: dict[str, float]
    flops_alone: dict[str, float]  # of each objective, if it were the only one
    activation_bytes: float  # in fp32

    @property
    def flops(self) -> float:
        return sum(self.flops_by_part.values())


def measure(task: nn.Module, batch: MicroBatch, train: TrainConfig) -> Measured:
    """Runs the task forward on a small batch, once whole and once for each objective.

    Whole is where the run has most objectives on.
    """
    if isinstance(task, PretrainTask):
        batch = replace(batch, progress=busiest_point(task))
    factor = RECOMPUTED if train.checkpoint_activations else FORWARD_AND_BACKWARD
    per_sample = factor / len(batch)
    task.train()
    whole = count_flops(task, batch)
    alone = {}
    if isinstance(task, PretrainTask):
        alone = {n: sum(count_flops(only(task, n), batch).values()) for n in task.objectives}
    return Measured(
        flops_by_part={part: count * per_sample for part, count in whole.items()},
        flops_alone={name: count * per_sample for name, count in alone.items()},
        activation_bytes=kept_bytes(task, batch) / len(batch),
    )


def busiest_point(task: PretrainTask) -> float:
    """The first share of the run at which most objectives are on."""
    schedules = task.schedules.values()
    risen = sorted({schedule.start + schedule.ramp for schedule in schedules})
    return max(risen, key=lambda point: sum(one.weight_at(point) != 0 for one in schedules))


def only(task: PretrainTask, name: str) -> PretrainTask:
    """The task with one of its objectives, on all the time."""
    objectives = {name: task.objectives[name]}
    return PretrainTask(
        task.model,
        objectives,  # type: ignore[arg-type]
        {name: Schedule()},
        share_image_pass=task.share_image_pass,
        num_visible=task.num_visible,
    )


def count_flops(task: nn.Module, batch: MicroBatch) -> dict[str, float]:
    """FLOPs of one forward by part: vision, text, fusion, and the rest (heads and losses)."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        task(batch)
    by_module = counter.get_flop_counts()
    root = type(task).__name__

    def of(module: str) -> float:
        return float(sum(by_module.get(f"{root}.{module}", {}).values()))

    parts = {part: of(f"model.{part}") for part in ("vision", "text", "fusion")}
    return {**parts, "heads": float(counter.get_total_flops()) - sum(parts.values())}


def kept_bytes(task: nn.Module, batch: MicroBatch) -> int:
    """Bytes that autograd keeps for the backward, the weights left out."""
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in task.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, _unchanged):
        output = task(batch)
    total = sum(kept.values())
    del output
    return total


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank."""

    weights: float
    gradients: float
    optimiser: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimiser + self.activations


def estimate_memory(
    parameters: int,
    activation_bytes: float,
    micro_batch: int,
    ranks: int,
    train: TrainConfig,
    zero: DeepSpeedConfig,
) -> Memory:
    """What a rank holds (Rajbhandari et al. 2020, section 3), in bytes.

    bf16: 2 a parameter for the weights, 4 for gradients that accumulate in fp32, 4 for the master
    weights and 8 for AdamW's moments; fp32: 4, 4, none and 8. An average of the weights takes 4.

    Args:
        activation_bytes: of a sample in fp32.
    """
    bf16 = train.precision == "bf16"
    share = 1 / ranks
    optimiser = (12 if bf16 else 8) + (4 if train.ema else 0)
    activation_share = (0.5 if bf16 else 1.0) * (0.3 if train.checkpoint_activations else 1.0)
    return Memory(
        weights=parameters * (2 if bf16 else 4) * (share if zero.zero_stage == 3 else 1),
        gradients=parameters * 4 * (share if zero.zero_stage >= 2 else 1),
        optimiser=parameters * optimiser * (share if zero.zero_stage >= 1 else 1),
        activations=activation_bytes * activation_share * micro_batch,
    )


def amount(value: float, unit: str) -> str:
    """123456789.0, "B" -> "123 MB"."""
    prefixes = ("", "k", "M", "G", "T", "P")
    power = 0
    while abs(value) >= 999.5 and power < len(prefixes) - 1:
        value, power = value / 1000, power + 1
    digits = 1 if power and abs(value) < 99.5 else 0
    return f"{value:.{digits}f} {prefixes[power]}{unit}"
