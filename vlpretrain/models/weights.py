"""Weights from files and hubs, and a report of what did not load."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vlpretrain.errors import UserError

State = dict[str, Tensor]
# Where training scripts keep the weights inside a checkpoint.
_NESTED = ("state_dict", "model", "module", "model_state")
_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
_NAMED_IN_REPORT = 8


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
