"""Which run a run goes on with."""

from __future__ import annotations

from pathlib import Path

from vlpretrain.config.schema import RunConfig
from vlpretrain.distributed import is_main
from vlpretrain.engine import list_checkpoints


def resumed_run(config: RunConfig, folder: Path) -> Path | None:
    """The folder of the run that is gone on with, whose tokenizer and classes are kept; None for a
    new run.

    Args:
        folder: the run's own.
    """
    wish = config.checkpoint.resume
    if wish == "auto":
        return folder if list_checkpoints(folder / "checkpoints") else None
    return None if wish == "never" else Path(wish).parent.parent


def kept_file(config: RunConfig, folder: Path, name: str) -> Path | None:
    """What the run that is gone on with made of its training data; None where it is to be made.

    Rank 0 leaves it in the run's own `folder`, where the others, who come after it, find it.
    """
    owner = resumed_run(config, folder) if is_main() else folder
    path = owner / name if owner is not None else None
    return path if path is not None and path.is_file() else None
