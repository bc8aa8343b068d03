"""Weights and descriptions in files, weights of hubs, and a report of what did not load."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vlpretrain.errors import UserError

State = dict[str, Tensor]
# Where training scripts keep the weights inside a checkpoint.
_NESTED = ("state_dict", "model", "module", "model_state")
_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
_NAMED_IN_REPORT = 8
_NAMED_IN_ERROR = 5


@dataclass(frozen=True, slots=True)
class WeightReport:
    """What came of loading weights into a module."""

    source: str
    loaded: int  # tensors taken over
    missing: tuple[str, ...] = ()  # of the module, not in the source: they stay random
    unexpected: tuple[str, ...] = ()  # of the source, not in the module: left out
    mismatched: tuple[str, ...] = ()  # in both, of another shape: they stay random

    def __str__(self) -> str:
        lines = [f"weights of {self.source}: {self.loaded} tensors loaded"]
        for title, names in (
            ("not in the file, random", self.missing),
            ("of another shape, random", self.mismatched),
            ("not used", self.unexpected),
        ):
            if names:
                more = f" and {len(names) - _NAMED_IN_REPORT} more"
                shown = ", ".join(names[:_NAMED_IN_REPORT])
                tail = more if len(names) > _NAMED_IN_REPORT else ""
                lines.append(f"  {title} ({len(names)}): {shown}{tail}")
        return "\n".join(lines)


def read_weights(path: str | Path) -> State:
    """The tensors of a .safetensors file, of a torch file (read without running code), or of the
    folder that holds one.

    Raises:
        UserError: nothing there, or not weights.
    """
    file = _weight_file(Path(path))
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return _unnest(torch.load(file, map_location="cpu", weights_only=True), file)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"cannot be read as weights: {first_line(error)}",
            where=str(file),
            fix="a .safetensors file, or a torch file that holds tensors alone",
        ) from error


def load_weights(
    module: nn.Module,
    state: State,
    source: str,
    convert: Callable[[State, nn.Module], State] | None = None,
) -> WeightReport:
    """Copies what fits by name and shape into `module`.

    Args:
        convert: turns the file's names and sizes into the module's (timm's checkpoint filters,
            which also resample position embeddings).

    Raises:
        UserError: not one tensor fits.
    """
    if convert is not None:
        state = convert(state, module)
    own = module.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise UserError(
            f"none of the {len(state)} tensors fits the model ({_first_names(state)}; "
            f"wanted: {_first_names(own)})",
            where=source,
            fix="weights of the same architecture",
        )
    module.load_state_dict(fitting, strict=False)
    return WeightReport(
        source=source,
        loaded=len(fitting),
        missing=tuple(k for k in own if k not in state),
        unexpected=tuple(sorted(k for k in state if k not in own)),
        mismatched=tuple(k for k in own if k in state and k not in fitting),
    )


def load_exactly(module: nn.Module, state: State, path: Path, description: str) -> None:
    """Loads weights that must be the module's own, one by one.

    Args:
        description: the name of the file that says what the module is made of.

    Raises:
        UserError: a tensor is missing, unknown or of another shape.
    """
    own = module.state_dict()
    differing = [
        f"{name} (missing)" if name not in state else f"{name} {list(state[name].shape)}"
        for name, tensor in own.items()
        if name not in state or state[name].shape != tensor.shape
    ] + [f"{name} (unknown)" for name in state if name not in own]
    if differing:
        raise UserError(
            f"weights of another architecture; {len(differing)} tensors differ: "
            f"{', '.join(differing[:_NAMED_IN_ERROR])}",
            where=str(path),
            fix=f"the {path.name} that was saved with this {description}",
        )
    module.load_state_dict(state)


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """A .safetensors file, whole or absent."""
    # safetensors takes no two names for one piece of memory, nor gaps in it.
    tensors = {name: t.detach().cpu().clone().contiguous() for name, t in state.items()}
    partial = path.with_name(f"{path.name}.partial")
    save_file(tensors, partial)
    os.replace(partial, path)


def save_description(description: object, path: Path) -> None:
    """A JSON file, whole or absent."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(description, indent=2) + "\n")
    os.replace(partial, path)


def read_description(path: Path) -> dict[str, Any]:
    """What `save_description` wrote.

    Raises:
        UserError: not a JSON object.
    """
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"damaged: {error}", where=str(path), fix="export the model again"
        ) from error
    if not isinstance(description, dict):
        raise UserError(
            f"holds a {type(description).__name__}, no description of a model",
            where=str(path),
            fix="export the model again",
        )
    return description


def first_line(error: Exception) -> str:
    """What an error says first; some libraries' go on for a page, some say nothing."""
    return re.split(r"\n|(?<=\.) ", str(error))[0] or type(error).__name__


def _weight_file(path: Path) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        candidates = [path / name for name in _FILES] + sorted(path.glob("*.safetensors"))
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        raise UserError(
            "holds no weights", where=str(path), fix=f"a folder with {' or '.join(_FILES)}"
        )
    raise UserError("no such file or folder", where=str(path), fix="the path of a weights file")


def _unnest(content: object, file: Path) -> State:
    for name in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise UserError(f"holds a {type(content).__name__}, no weights by name", where=str(file))
    return {k: v for k, v in content.items() if isinstance(v, Tensor)}


def _first_names(state: Mapping[str, Tensor]) -> str:
    return ", ".join(list(state)[:3]) + ", ..."
