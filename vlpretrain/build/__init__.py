"""From a run's configuration to its objects: the one package that sees every layer.

Everything below gets plain arguments; only here are the configuration's fields spread out.
"""

from vlpretrain.build.data import (
    build_batch_maker,
    build_loader,
    build_order,
    build_tokeniser,
    count_steps,
    open_sources,
)
from vlpretrain.build.kit import TaskKit
from vlpretrain.build.model import (
    build_model,
    checkpoint_activations,
    compile_task,
    learning_rate_scales,
)
from vlpretrain.build.table import open_kit

__all__ = [
    "TaskKit",
    "build_batch_maker",
    "build_loader",
    "build_model",
    "build_order",
    "build_tokeniser",
    "checkpoint_activations",
    "compile_task",
    "count_steps",
    "learning_rate_scales",
    "open_kit",
    "open_sources",
]
