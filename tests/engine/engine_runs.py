"""Short runs of the toy task, for tests of the engine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from engine_toy import ToyLoader, ToyTask

from vlpretrain.config.deepspeed import split_batch
from vlpretrain.config.schema import (
    CheckpointConfig,
    DeepSpeedConfig,
    EvaluationConfig,
    LogConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from vlpretrain.distributed import world_size
from vlpretrain.engine import (
    Engine,
    RunFolder,
    TrainResult,
    join_processes,
    resume,
    start_engine,
    train,
)

BASE = RunConfig(
    train=TrainConfig(global_batch=8, precision="fp32"),
    optim=OptimConfig(lr=3e-3),
    deepspeed=DeepSpeedConfig(zero_stage=1),
    checkpoint=CheckpointConfig(every=1000),
    log=LogConfig(every=1, tensorboard=False),
    evaluation=EvaluationConfig(every=0),
)


def config(
    stage: int = 1,
    precision: str = "fp32",
    micro_batch: int = 0,
    ema: float = 0.0,
    every: int = 1000,
) -> RunConfig:
    changed = replace(BASE.train, precision=precision, micro_batch=micro_batch, ema=ema)  # type: ignore[arg-type]
    zero = DeepSpeedConfig(zero_stage=stage)  # type: ignore[arg-type]
    return replace(BASE, train=changed, deepspeed=zero, checkpoint=CheckpointConfig(every=every))


@contextmanager
def as_one_rank() -> Iterator[None]:
    """A process group of one; what joining changes is put back for the other tests."""
    threads = torch.get_num_threads()
    with mock.patch.dict(os.environ):
        join_processes()
        yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@dataclass(frozen=True)
class ToyRun:
    """What a run left behind."""

    result: TrainResult
    lines: list[dict[str, Any]]  # of metrics.jsonl

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in self.lines if line["split"] == "train"]


def run_toy(
    out: Path,
    run_config: RunConfig,
    total_steps: int = 20,
    task: torch.nn.Module | None = None,
    loader: Any = None,
    evaluator: Any = None,
    at_end: Callable[[Engine], None] = lambda engine: None,
) -> ToyRun:
    """Starts or goes on with a run in `out`. All ranks call; `lines` are read on each."""
    run = RunFolder(out, "toy: true\n", tensorboard=run_config.log.tensorboard)
    engine = start_engine(task or ToyTask(), run_config, total_steps)
    split = split_batch(run_config.train, world_size())
    loader = loader or ToyLoader(split.micro_batch, split.micro_steps)
    try:
        progress = resume(engine, run, run_config)
        result = train(engine, loader, evaluator, run, run_config, progress)
        at_end(engine)
    finally:
        engine.close()
        run.close()
    text = run.metrics.read_text() if run.metrics.exists() else ""
    return ToyRun(result, [json.loads(line) for line in text.splitlines()])
