"""Dataclasses between modules under ZeRO-3.

DeepSpeed's hooks look for tensors in tuples, lists and dicts; a dataclass with slots stops them
with a TypeError, and behind any other the parameters of a module would not be there again in the
backward pass. So a module's output passes DeepSpeed's hooks as a dict and is a dataclass again
after them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn


class _Opened(dict[str, Any]):
    """A dataclass's fields, and which dataclass they make."""

    def __init__(self, output: Any) -> None:
        super().__init__({f.name: _open(getattr(output, f.name)) for f in fields(output)})
        self.kind = type(output)


def open_outputs(task: nn.Module) -> Callable[[], None]:
    """Call before DeepSpeed places its hooks, and what it returns after."""
    modules = list(task.modules())
    for module in modules:
        module.register_forward_hook(lambda module, inputs, output: _open(output))

    def close_outputs() -> None:
        for module in modules:
            module.register_forward_hook(lambda module, inputs, output: _close(output))

    return close_outputs


def _open(output: Any) -> Any:
    is_instance = is_dataclass(output) and not isinstance(output, type)
    return _Opened(output) if is_instance else output


def _close(output: Any) -> Any:
    if not isinstance(output, _Opened):
        return output
    return output.kind(**{name: _close(value) for name, value in output.items()})
