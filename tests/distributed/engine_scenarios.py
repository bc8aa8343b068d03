"""The same training in every division. Run by DeepSpeed's launcher, or in one process by a test."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))

from engine_pretrain import PretrainLoader, tiny_pretraining
from engine_runs import config, run_toy
from engine_toy import ToyLoader, ToyTask

from vlpretrain.config.schema import RunConfig
from vlpretrain.distributed import is_main, rank, world_size
from vlpretrain.engine import NonFiniteLoss, join_processes

Curves = dict[str, list[float]]
STAGES = (0, 1, 2, 3)


def every_division(folder: Path) -> Curves:
    """20 losses of pretraining by precision and ZeRO stage, and of the toy task accumulated.

    Without dropout, whose draws depend on how the batch is divided; so do the candidates for
    negatives under accumulation, which is why the toy task stands for it.
    """
    curves: Curves = {}
    rows = 8 // world_size()
    for precision in ("fp32", "bf16"):
        for stage in STAGES:
            name = f"{precision}-stage{stage}"
            settings = config(stage, precision, rows, ema=0.9, every=10)
            curves[name] = run_pretraining(folder / name, settings)
    for parts in (1, 2, 4):
        name = f"accumulated-{parts * world_size()}"
        settings = config(2, "fp32", rows // parts)
        curves[name] = run_toy(folder / name, settings, 20, ToyTask(dropout=0.0)).losses
    return curves


def run_pretraining(out: Path, settings: RunConfig) -> list[float]:
    loader = PretrainLoader(settings.train.micro_batch, micro_steps=1)
    return run_toy(out, settings, 20, tiny_pretraining(), loader).losses


def resume_from(begun_in: Path, folder: Path, stage: int) -> list[float]:
    """The losses after step 10 of a run that was begun at another stage."""
    settings = config(stage, micro_batch=8 // world_size(), ema=0.9)
    begun = str(begun_in / f"fp32-stage{3 - stage}/checkpoints/step-10")
    settings = replace(settings, checkpoint=replace(settings.checkpoint, resume=begun))
    return run_pretraining(folder / f"resumed-{stage}", settings)


def stopped_by_one_rank(folder: Path) -> str:
    """What every rank is told when the last rank alone meets a non-finite loss."""
    loader = ToyLoader(4, 1, poisoned=2 if rank() == world_size() - 1 else -1)
    try:
        run_toy(folder / "non-finite", config(1), 4, loader=loader)
    except NonFiniteLoss as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    join_processes()
    curves = every_division(folder)
    curves |= {f"resumed-stage{stage}": resume_from(folder, folder, stage) for stage in STAGES}
    message = stopped_by_one_rank(folder)
    (folder / f"stopped-{rank()}.txt").write_text(message)
    if is_main():
        (folder / "curves.json").write_text(json.dumps(curves))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
