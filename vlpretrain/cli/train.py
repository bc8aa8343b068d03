"""What a rank does in a training run of any task, top-down."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from vlpretrain.build import (
    TaskKit,
    build_loader,
    build_tokeniser,
    checkpoint_activations,
    compile_task,
    count_steps,
    learning_rate_scales,
    open_kit,
    open_sources,
)
from vlpretrain.build.resumed import resumed_run
from vlpretrain.cli.summary import summarise
from vlpretrain.config.check import check
from vlpretrain.config.dump import dump_yaml
from vlpretrain.config.schema import RunConfig
from vlpretrain.data.shards import Source
from vlpretrain.data.tokenise import Tokeniser, load_tokeniser
from vlpretrain.distributed import gather_objects, is_main, rank, world_size
from vlpretrain.engine import (
    RunFolder,
    TrainResult,
    export,
    join_processes,
    resume,
    start_engine,
    train,
)
from vlpretrain.engine.checkpoint import choose_checkpoint, on_main
from vlpretrain.engine.run_folder import writing
from vlpretrain.report import write_report

Answer = TypeVar("Answer")
NAMED = 5


def run_training(config: RunConfig) -> int:
    """A run from its start, or from its newest checkpoint, to its export and its report.

    Every rank calls this. Returns the exit code: 130 after Ctrl-C, else 0.
    """
    join_processes()
    check(config, world_size())
    sources = main_first(lambda: open_sources(config.data.train, config.data))
    run = open_run(config)
    tokeniser = prepare_tokeniser(config, sources, run)
    kit = main_first(lambda: open_kit(config, sources, tokeniser, run.path))
    recipe = main_first(kit.recipe)
    loader = build_loader(config, sources, recipe, rank(), world_size())
    evaluator = main_first(kit.evaluator)
    task = kit.task()
    summary = summarise(config, sources, loader, task, kit)
    run.say(summary.lines())
    engine = start_engine(
        task,
        config,
        count_steps(config.train, loader.samples_per_epoch),
        lr_scales=learning_rate_scales(config, task),
        prepare=checkpoint_activations if config.train.checkpoint_activations else None,
        compile=compile_task if config.train.compile else None,
    )
    progress = resume(engine, run, config)
    on_main(lambda: summary.write(run.path / "summary.json"))
    result = train(engine, loader, evaluator, run, config, progress, chance=summary.chance)
    if not result.stopped_by:
        export(engine, run.path / "export", partial(kit.save, task))
    run.close()
    finish(run, result)
    run.say(unusable_lines(kit))
    return 128 + signal.SIGINT if result.stopped_by == signal.SIGINT else 0


def open_run(config: RunConfig) -> RunFolder:
    """The run's folder; with resume "never" only where it has no checkpoint yet."""
    if config.checkpoint.resume == "never":
        on_main(lambda: choose_checkpoint(Path(config.out) / "checkpoints", "never"))
    folder = partial(RunFolder, config.out, dump_yaml(config), config.log.tensorboard)
    return main_first(folder)


def main_first(action: Callable[[], Answer]) -> Answer:
    """Rank 0 does it before the others, who then find what it left on the disk."""
    done: list[Answer] = []
    on_main(lambda: done.append(action()))
    return done[0] if is_main() else action()


def tokenizer_folder(run_folder: Path) -> Path:
    return run_folder / "tokenizer"


def prepare_tokeniser(config: RunConfig, sources: Sequence[Source], run: RunFolder) -> Tokeniser:
    """The run's tokenizer, made by rank 0 and kept with the run."""
    folder = tokenizer_folder(run.path)

    def prepare() -> None:
        kept = kept_tokenizer(config, run)
        if kept != folder:
            tokeniser = load_tokeniser(kept) if kept else build_tokeniser(config, sources)
            with writing(folder):
                tokeniser.save(folder)

    on_main(prepare)
    return load_tokeniser(folder)


def kept_tokenizer(config: RunConfig, run: RunFolder) -> Path | None:
    """The tokenizer of the run that is gone on with: its checkpoints know no other ids."""
    owner = resumed_run(config, run.path)
    if owner is None or not tokenizer_folder(owner).is_dir():
        return None
    return tokenizer_folder(owner)


def unusable_lines(kit: TaskKit) -> list[str]:
    """The held-out samples that an evaluation could not use, counted, and the first of them. All
    ranks call: each has read its own share."""
    parts = gather_objects(list(kit.unusable))
    skips = list(dict.fromkeys(skip for part in parts for skip in part))
    if not skips:
        return []
    shown = [f"  {skip.shard}/{skip.key}: {skip.reason}" for skip in skips[:NAMED]]
    return [f"{len(skips)} held-out samples could not be used as they are:", *shown]


def finish(run: RunFolder, result: TrainResult) -> None:
    """Writes the report and says what there is to look at."""
    if not is_main():
        return
    report = write_report(run.path) if run.metrics.exists() else None
    if result.stopped_by:
        run.say(f"stopped after step {result.step}; the same command goes on from there")
        return
    exported = run.path / "export"
    run.say(
        [
            f"done after {result.step} steps; worth opening:",
            f"  {report}  curves, figures, examples",
            f"  {run.metrics}  every logged figure",
            f"  {exported}  the model: VLModel.from_pretrained({str(exported)!r})",
        ]
    )
