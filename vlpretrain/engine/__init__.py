"""The engine: a task, batches by step number and a configuration -> a trained model and its folder.

Every rank makes the same calls:

    device = join_processes()              # reads the launcher's environment; then rank() is known
    run = RunFolder(config.out, config_text, tensorboard=config.log.tensorboard)
    loader = ...                           # a types.TrainLoader for rank(), world_size() and
                                           # split_batch(config.train, world_size())
    engine = start_engine(task, config, total_steps, prepare=..., compile=...)
    progress = resume(engine, run, config)           # Progress(step=0) for a fresh run
    result = train(engine, loader, evaluator, run, config, progress, chance={"loss/itm": 0.69})
    if not result.stopped_by:
        export(engine, run.path / "export", save)    # save(state_dict, folder), on rank 0
    run.close()

`result.stopped_by` is the signal that ended the run early (exit with 130 for SIGINT, else 0), 0
when it came to its end. `NonFiniteLoss` and every other `UserError` leave with exit code 2.
"""

from vlpretrain.engine.checkpoint import load_checkpoint, resume, save_checkpoint
from vlpretrain.engine.export import export, weights
from vlpretrain.engine.guard import NonFiniteLoss
from vlpretrain.engine.loop import TrainResult, evaluate_task, train
from vlpretrain.engine.optim import build_optimizer, decay_groups, learning_rate
from vlpretrain.engine.processes import join_processes
from vlpretrain.engine.run_folder import RunFolder
from vlpretrain.engine.start import Engine, start_engine
from vlpretrain.engine.state import Progress, list_checkpoints

__all__ = [
    "Engine",
    "NonFiniteLoss",
    "Progress",
    "RunFolder",
    "TrainResult",
    "build_optimizer",
    "decay_groups",
    "evaluate_task",
    "export",
    "join_processes",
    "learning_rate",
    "list_checkpoints",
    "load_checkpoint",
    "resume",
    "save_checkpoint",
    "start_engine",
    "train",
    "weights",
]
