"""A task and a configuration -> a DeepSpeed engine that the loop can drive."""

from __future__ import annotations

import contextlib
import gc
import io
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vlpretrain.config.deepspeed import BatchSplit, clips_itself, deepspeed_dict, split_batch
from vlpretrain.config.schema import RunConfig
from vlpretrain.distributed import world_size
from vlpretrain.engine.ema import Average
from vlpretrain.engine.masters import Masters
from vlpretrain.engine.opened import open_outputs
from vlpretrain.engine.optim import build_optimizer
from vlpretrain.engine.processes import join_processes
from vlpretrain.types import Embeddings, GlobalEmbeddings, MicroBatch, StepOutput

Change = Callable[[nn.Module], None]


class _Outputs(nn.Module):
    """Gives DeepSpeed a tuple: it looks for tensors in tuples, lists and dicts only."""

    def __init__(self, task: nn.Module) -> None:
        super().__init__()
        self.task = task

    def forward(
        self, batch: MicroBatch, others: GlobalEmbeddings | None, prepass: bool
    ) -> tuple[Tensor, dict[str, Tensor], Embeddings | None]:
        output: StepOutput = self.task(batch, others=others, prepass=prepass)
        return output.loss, output.metrics, output.embeddings


class Engine:
    """The task under DeepSpeed, with its fp32 masters and their average."""

    def __init__(
        self, deepspeed_engine: Any, task: nn.Module, config: RunConfig, total_steps: int
    ) -> None:
        self.task = task
        self.device: torch.device = deepspeed_engine.device
        self.total_steps = total_steps
        self.split: BatchSplit = split_batch(config.train, world_size())
        self.masters = Masters(deepspeed_engine, task)
        self.average = Average(self.masters, config.train.ema) if config.train.ema else None
        self._engine = deepspeed_engine
        # Only where DeepSpeed doesn't clip; 0 stands for no limit there as well.
        self._clip = (config.optim.clip or float("inf")) if clips_itself(config) else None
        self._grad_norm = torch.zeros((), device=self.device)

    def __call__(
        self, batch: MicroBatch, others: GlobalEmbeddings | None = None, prepass: bool = False
    ) -> StepOutput:
        loss, metrics, embeddings = self._engine(batch, others, prepass)
        return StepOutput(loss, metrics, embeddings)

    def backward(self, loss: Tensor) -> None:
        """Adds one micro-batch's gradient, divided by the number of micro-steps."""
        self._engine.backward(loss)

    def step(self) -> None:
        """Call after every backward; the weights move after the last micro-step."""
        last = self._engine.is_gradient_accumulation_boundary()
        if last and self._clip is not None:
            self._grad_norm = nn.utils.clip_grad_norm_(self.task.parameters(), self._clip)
        self._engine.step()

    def set_learning_rate(self, rate: float) -> None:
        for group in self._engine.basic_optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]

    def grad_norm(self) -> Tensor:
        """Global gradient norm of the last step before clipping, a scalar on the device."""
        if self._clip is not None:
            return self._grad_norm
        norm = self._engine.get_global_grad_norm()
        return torch.as_tensor(norm, dtype=torch.float32, device=self.device)

    def gradient_was_finite(self) -> Tensor:
        """A bool on the device. DeepSpeed leaves out a step with a non-finite gradient."""
        if self._clip is not None:
            return self._grad_norm.isfinite()
        return torch.full((), self._engine.was_step_applied(), device=self.device)

    def close(self) -> None:
        """Frees DeepSpeed's hooks and buffers; the weights of the task are gone with ZeRO-3."""
        self._engine.destroy()
        gc.unfreeze()


def start_engine(
    task: nn.Module,
    config: RunConfig,
    total_steps: int,
    *,
    lr_scales: Mapping[str, float] | None = None,
    prepare: Change | None = None,
    compile: Change | None = None,
) -> Engine:
    """Puts the task under DeepSpeed. Joins the process group if that has not been done.

    Args:
        task: a TrainTask; rank 0's weights become every rank's.
        lr_scales: factors of the learning rate by parameter name; 1 for the others.
        prepare: called with the task before DeepSpeed takes it (activation checkpointing).
        compile: called with the task afterwards (torch.compile in place).

    Raises:
        UserError: the batch can't be divided over the ranks.
    """
    device = join_processes()
    settings = deepspeed_dict(config, world_size(), on_gpu=device.type == "cuda")
    if prepare is not None:
        prepare(task)
    weights = {
        name: parameter.detach().float().cpu().clone()
        for name, parameter in task.named_parameters()
    }
    deepspeed_engine = _initialize(task, settings, config, lr_scales)
    task.train()
    engine = Engine(deepspeed_engine, task, config, total_steps)
    # DeepSpeed's masters start from the weights rounded to bf16, and some stages take a step with
    # zero gradients; both are undone here, so every stage starts from the same point.
    engine.masters.scatter("master", lambda name: weights[name])
    engine.masters.set_step(0)
    if engine.average is not None:
        engine.average.restart()
    if compile is not None:
        compile(task)
    return engine


def _initialize(
    task: nn.Module,
    settings: dict[str, Any],
    config: RunConfig,
    lr_scales: Mapping[str, float] | None,
) -> Any:
    import deepspeed  # takes seconds, so only here

    # DeepSpeed collects garbage often while it starts; what the imports left need not be looked at.
    gc.collect()
    gc.freeze()
    sharded = config.deepspeed.zero_stage == 3
    close_outputs = open_outputs(task) if sharded else None
    # Its notes on start-up are printed, not logged.
    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(
            model=_Outputs(task),
            optimizer=build_optimizer(task, config.optim, lr_scales),
            config=settings,
            dist_init_required=False,
        )
    if close_outputs is not None:
        close_outputs()
    return engine
