"""What a rank does to judge an exported model, top-down."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from vlpretrain.build import TaskKit, open_kit, open_sources
from vlpretrain.build.data import check_export
from vlpretrain.build.model import read_training
from vlpretrain.cli.train import main_first, unusable_lines
from vlpretrain.config.dump import dump_yaml
from vlpretrain.config.schema import DataConfig, RunConfig
from vlpretrain.data.remote import is_remote
from vlpretrain.data.tokenise import load_tokeniser
from vlpretrain.distributed import is_main, world_size
from vlpretrain.engine import RunFolder, join_processes, list_checkpoints
from vlpretrain.engine.checkpoint import on_main
from vlpretrain.engine.run_folder import writing
from vlpretrain.errors import UserError
from vlpretrain.report import write_report


def run_evaluation(config: RunConfig) -> int:
    """Judges `config.init` on `config.data.val`; leaves figures, pictures and a report in
    `config.out`. Every rank calls this. Returns the exit code."""
    device = join_processes()
    check_model(config)
    config = main_first(lambda: with_known_sources(beside_training(config)))
    run = main_first(lambda: RunFolder(config.out, dump_yaml(config), tensorboard=False))
    # Its one line stands at step 0, and an evaluation made anew replaces it.
    on_main(lambda: run.begin(-1))
    tokeniser = load_tokeniser(config.init)
    sources = main_first(lambda: open_sources(config.data.train, config.data))
    kit = main_first(lambda: open_kit(config, sources, tokeniser, run.path, judging=True))
    evaluator = main_first(kit.evaluator)
    assert evaluator is not None
    task = kit.task().to(device)
    if config.train.precision == "bf16":
        task = task.to(torch.bfloat16)
    folder = run.path / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        figures = evaluator(task.eval(), folder)
    on_main(lambda: write_summary(config, kit, run))
    run.log({"split": "val", "step": 0, **figures})
    run.close()
    finish(run, figures)
    run.say(unusable_lines(kit))
    return 0


def check_model(config: RunConfig) -> None:
    """Raises UserError where the export is of another task than it is to be judged by.

    A pretrained model can be judged by its embeddings: retrieval, k-NN and zero-shot classes.
    """
    check_export(config.init)
    training = read_training(config.init)
    made_for = training.task if training else "pretrain"
    needs_no_head = config.task.name == "retrieval" or (
        config.task.name == "classification"
        and config.task.classification.mode in ("knn", "zero_shot")
    )
    if made_for == config.task.name or (needs_no_head and made_for in ("pretrain", "retrieval")):
        return
    raise UserError(
        f"the model was trained for {made_for!r}, and is to be judged by {config.task.name!r}",
        where=f"init {config.init}",
        fix=f"fine-tune it first: vlpretrain finetune CONFIG --init {config.init}",
    )


def beside_training(config: RunConfig) -> RunConfig:
    """With a folder of its own where `out` is that of a training run, whose figures stay."""
    if not list_checkpoints(Path(config.out) / "checkpoints"):
        return config
    return replace(config, out=config.out.rstrip("/") + "-evaluation")


def with_known_sources(config: RunConfig) -> RunConfig:
    """With the training sources that can be opened, those of the configuration or else of the
    model's trainings: baselines and neighbours are made of them, the rest does without."""
    training = read_training(config.init)
    specs = config.data.train or (training.sources if training else ())
    there = tuple(spec for spec in specs if _opens(spec, config.data))
    missing = [spec for spec in config.data.train if spec not in there]
    if missing and is_main():
        print(f"judged without the training data that is not here: {', '.join(missing)}")
    return replace(config, data=replace(config.data, train=there, weights=()))


def _opens(spec: str, data: DataConfig) -> bool:
    if is_remote(spec):
        return False
    try:
        open_sources([spec], data)
    except UserError:
        return False
    return True


def write_summary(config: RunConfig, kit: TaskKit, run: RunFolder) -> None:
    summary = {
        "command": ["./launch.sh", *sys.argv[1:]],
        "task": kit.facts(),
        "data": {"run_folder": config.out, "held_out": list(config.data.val)},
        "ranks": world_size(),
    }
    path = run.path / "summary.json"
    with writing(path):
        path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def finish(run: RunFolder, figures: dict[str, float]) -> None:
    if not is_main():
        return
    width = max((len(name) for name in figures), default=0)
    run.say([f"  {name:<{width}}  {value:.4g}" for name, value in figures.items()])
    run.say(f"done; worth opening: {write_report(run.path)}")
