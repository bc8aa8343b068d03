"""Parameters that learn at their own rate, and some that do not learn, at every ZeRO stage."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine_runs import config
from engine_toy import ToyLoader, ToyTask

from vlpretrain.config.schema import OptimConfig
from vlpretrain.engine import start_engine
from vlpretrain.engine.export import weights
from vlpretrain.engine.loop import train_step

RATE = 1e-3
SCALES = {"image.0.weight": 0.25, "image.0.bias": 0.25, "text.1.weight": 4.0}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_parameter_moves_at_its_own_rate(stage: int, precision: str) -> None:
    """AdamW's first step is the learning rate in every direction that has a gradient."""
    optim = OptimConfig(lr=RATE, warmup=0.0, weight_decay=0.0, eps=1e-12, clip=0.0)
    settings = replace(config(stage, precision), optim=optim)
    task = ToyTask()
    task.regress.requires_grad_(False)
    frozen = task.regress.weight.detach().clone()
    engine = start_engine(task, settings, 20, lr_scales=SCALES)
    try:
        before = weights(engine)
        (data,) = ToyLoader(8, 1).steps(0, 1)
        train_step(engine, data, 0, settings)
        after = weights(engine)
    finally:
        engine.close()
    assert before.keys() == {"calls", *(name for name, _ in ToyTask().named_parameters())}
    for name in ("image.0.weight", "image.0.bias", "image.3.weight", "text.1.weight"):
        step = (after[name] - before[name]).abs().max()
        assert float(step) == pytest.approx(RATE * SCALES.get(name, 1.0), rel=1e-3), name
    rounded = frozen.to(torch.bfloat16).float() if precision == "bf16" else frozen
    assert torch.equal(after["regress.weight"], rounded)
