"""Which run a run goes on with."""

from __future__ import annotations

from pathlib import Path

from vlpretrain.config.schema import RunConfig
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
