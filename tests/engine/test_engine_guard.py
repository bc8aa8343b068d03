"""What stops a run early."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engine_runs import config, run_toy
from engine_toy import ToyLoader, ToyTask

from vlpretrain.engine import NonFiniteLoss, list_checkpoints
from vlpretrain.types import Batch, GlobalEmbeddings, StepData, StepOutput


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_non_finite_loss_stops_the_run_and_names_its_samples(tmp_path: Path, stage: int) -> None:
    settings = config(stage, micro_batch=4, every=2)
    with pytest.raises(NonFiniteLoss, match=r"step 3: the loss is not finite.*begin with s3/k0"):
        run_toy(tmp_path, settings, 8, loader=ToyLoader(4, 2, poisoned=3))
    record = json.loads((tmp_path / "nonfinite.json").read_text())
    assert record["step"] == 3
    assert len(record["keys"]) == 8
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-2"]


class InfiniteGradient(ToyTask):
    """A finite loss with a gradient that is not."""

    def forward(
        self, batch: Batch, others: GlobalEmbeddings | None = None, prepass: bool = False
    ) -> StepOutput:
        output = super().forward(batch, others, prepass)
        zero = self.regress(torch.zeros(1, 8, dtype=self.regress.weight.dtype)).sum() * 0
        return StepOutput(output.loss + zero.sqrt(), output.metrics, output.embeddings)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_non_finite_gradient_stops_the_run_too(tmp_path: Path, stage: int) -> None:
    with pytest.raises(NonFiniteLoss, match="the gradient is not finite"):
        run_toy(tmp_path, config(stage), 4, task=InfiniteGradient())


class Interrupted(ToyLoader):
    """Sends this process a signal while a step's data are being read."""

    def steps(self, first: int, last: int, skipped: int = 0) -> Iterator[StepData]:
        for step, data in zip(range(first, last), super().steps(first, last), strict=True):
            if step == 2 and first == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            yield data


def test_a_signal_ends_the_run_with_a_checkpoint_from_which_it_goes_on(tmp_path: Path) -> None:
    whole = run_toy(tmp_path / "whole", config(), 6)
    stopped = run_toy(tmp_path / "stopped", config(), 6, loader=Interrupted(8, 1))
    assert stopped.result.stopped_by == signal.SIGTERM
    assert stopped.result.step == 3
    resumed = run_toy(tmp_path / "stopped", config(), 6, loader=Interrupted(8, 1))
    assert resumed.result.stopped_by == 0
    assert resumed.losses == whole.losses
