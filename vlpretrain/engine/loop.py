"""The training loop: one for pretraining, fine-tuning and distillation.

S micro-steps of a global batch. The loop knows `task(batch) -> StepOutput` and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlpretrain.config.schema import RunConfig
from vlpretrain.distributed import all_mean, rank
from vlpretrain.engine.checkpoint import save_checkpoint
from vlpretrain.engine.contrast import gather_parts
from vlpretrain.engine.guard import Guard, Stop, stop_on_signals
from vlpretrain.engine.meter import Meter, mean_of
from vlpretrain.engine.optim import learning_rate
from vlpretrain.engine.randomness import keyed_seed, seed_forward
from vlpretrain.engine.run_folder import RunFolder
from vlpretrain.engine.screen import Line, Screen
from vlpretrain.engine.skips import SkipCount
from vlpretrain.engine.start import Engine
from vlpretrain.engine.state import Progress
from vlpretrain.engine.statistics import agree_on_statistics
from vlpretrain.types import (
    Embeddings,
    Evaluator,
    GlobalEmbeddings,
    MicroBatch,
    StepData,
    StepOutput,
    TrainLoader,
)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended: the steps done, and the signal that stopped it early (0: none)."""

    step: int
    stopped_by: int


def train(
    engine: Engine,
    loader: TrainLoader,
    evaluator: Evaluator | None,
    run: RunFolder,
    config: RunConfig,
    progress: Progress,
    chance: Mapping[str, float] | None = None,
) -> TrainResult:
    """Trains from `progress` to the end, logging, evaluating and saving on the way.

    Args:
        chance: what a metric is by guessing, shown beside it.

    Raises:
        NonFiniteLoss: on all ranks; nothing is saved from then on.
        UserError: the loader's, or the disk is full.
    """
    training = _Training(engine, evaluator, run, config, progress, chance or {})
    with stop_on_signals() as stop:
        for data in loader.steps(progress.step, engine.total_steps, progress.skipped):
            step, result = training.step, train_step(engine, data, training.step, config)
            training.guard.watch(
                step, result.losses, result.keys, engine.gradient_was_finite(), stop
            )
            training.meter.add(result.metrics)
            training.skips.add(data.skips)
            training.after_step(stop)
            if training.stopping:
                break
    return TrainResult(training.step, training.stopping)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one rank's share of a step left: losses and metrics still on the device."""

    losses: list[Tensor]
    metrics: dict[str, Tensor]
    keys: list[tuple[str, ...]]


def train_step(engine: Engine, data: StepData, step: int, config: RunConfig) -> StepResult:
    """One optimiser step over this rank's micro-batches of a global batch. Never waits."""
    engine.set_learning_rate(learning_rate(step, engine.total_steps, config.optim))
    batches = prepare_batches(engine, data, step, config.train.seed)
    others = meet_others(engine, batches)
    outputs: list[StepOutput] = []
    for batch, other in zip(batches, others, strict=True):
        seed_forward(batch.seed, rank())
        output = engine(batch, others=other)
        engine.backward(output.loss)
        engine.step()
        outputs.append(StepOutput(output.loss.detach(), output.metrics))
    if engine.average is not None:
        engine.average.update(step)
    losses = [output.loss for output in outputs]
    metrics = {"loss": torch.stack(losses).float().mean()}
    metrics |= mean_of([output.metrics for output in outputs])
    metrics["grad_norm"] = engine.grad_norm()
    return StepResult(losses, metrics, [batch.keys for batch in batches])


def prepare_batches(engine: Engine, data: StepData, step: int, seed: int) -> list[MicroBatch]:
    """The micro-batches on the device, with what only the loop knows: seed, progress, counts."""
    batches = [batch.to(engine.device) for batch in data.micro_batches]
    mean_counts = all_mean(torch.stack([batch.counts for batch in batches]).mean(0))
    return [
        replace(
            batch,
            mean_counts=mean_counts,
            seed=keyed_seed(seed, step, micro),
            progress=step / engine.total_steps,
        )
        for micro, batch in enumerate(batches)
    ]


def meet_others(engine: Engine, batches: Sequence[MicroBatch]) -> Sequence[GlobalEmbeddings | None]:
    """For each micro-batch, the embeddings of the whole global batch, where the task needs them."""
    needed = engine.task.needs_prepass(batches[0].progress)  # type: ignore[operator]
    if len(batches) == 1 or not needed:
        return [None] * len(batches)
    local: list[Embeddings] = []
    with torch.no_grad():
        for batch in batches:
            seed_forward(batch.seed, rank())
            embeddings = engine(batch, prepass=True).embeddings
            if embeddings is None:
                raise TypeError("a task that needs a prepass must return embeddings from it")
            local.append(embeddings)
    return gather_parts(local)


class _Training:
    """What happens between steps."""

    def __init__(
        self,
        engine: Engine,
        evaluator: Evaluator | None,
        run: RunFolder,
        config: RunConfig,
        progress: Progress,
        chance: Mapping[str, float],
    ) -> None:
        self.step = progress.step
        self.stopping = 0  # the signal that ends the run
        self.meter = Meter(engine.device)
        self.guard = Guard(engine.device, run.path / "nonfinite.json")
        self.skips = SkipCount(progress.skipped)
        self._screen = Screen(progress, engine.total_steps, engine.split.global_batch, chance)
        self._engine, self._evaluator, self._run, self._config = engine, evaluator, run, config

    def after_step(self, stop: Stop) -> None:
        """Logs, evaluates and saves where it is due, and sees whether the run must stop."""
        self.step += 1
        config, last = self._config, self.step == self._engine.total_steps
        log = last or self.step % config.log.every == 0
        save = last or self.step % config.checkpoint.every == 0
        evaluate = last or _divides(config.evaluation.every, self.step)
        if self.guard.stop_agreed(wait=log or save or evaluate):
            self.stopping, save = stop.signal or 15, True
        if log:
            self._log()
        if evaluate:
            self._evaluate()
        if save:
            self.guard.stop_agreed(wait=True)
            self._save()

    def _log(self) -> None:
        figures = self.meter.read()
        self.skips.share(self._run, self.step)
        rate = learning_rate(self.step - 1, self._engine.total_steps, self._config.optim)
        line = self._screen.line(self.step, figures, rate)
        self._run.log(line)
        self._run.say(self._screen.text(line))

    def _evaluate(self) -> None:
        if self._evaluator is None:
            return
        with self._screen.clock_stopped():
            figures = evaluate_task(self._engine, self._evaluator, self._run)
            samples_seen = self._screen.samples_seen(self.step)
            line: Line = {
                "split": "val",
                "step": self.step,
                "samples_seen": samples_seen,
                **figures,
            }
            self._run.log(line)
            self._run.say(self._screen.evaluation_text(self.step, figures))

    def _save(self) -> None:
        with self._screen.clock_stopped():
            progress = Progress(self.step, self._screen.seconds(), self.skips.total)
            agree_on_statistics(self._engine.task)
            save_checkpoint(self._engine, self._run.checkpoints, progress, self._config)


def evaluate_task(engine: Engine, evaluator: Evaluator, run: RunFolder) -> dict[str, float]:
    """The evaluator's figures, with the task in evaluation mode meanwhile. All ranks call."""
    folder = run.path / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    agree_on_statistics(engine.task)
    engine.task.eval()
    try:
        with torch.no_grad():
            seed_forward(0, rank())
            return evaluator(engine.task, folder)
    finally:
        engine.task.train()


def _divides(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
