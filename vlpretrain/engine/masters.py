"""The fp32 master weights and AdamW's moments, wherever DeepSpeed keeps them.

Each ZeRO stage and precision stores them in its own way. Here they are one list of fragments:
views of this process's piece of every trainable parameter. Averages, checkpoints and exports are
written against fragments alone, so a checkpoint goes on at any stage, precision and world size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vlpretrain.distributed import is_main, world_size

Kind = Literal["master", "exp_avg", "exp_avg_sq"]
KINDS: tuple[Kind, ...] = ("master", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Fragment:
    """This process's piece of one parameter: flat fp32 views of equal length, maybe empty."""

    parameter: nn.Parameter
    shape: torch.Size  # of the whole parameter
    start: int  # where the piece begins in the flattened parameter
    master: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor

    def piece(self, kind: Kind) -> Tensor:
        return {"master": self.master, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}[kind]


@dataclass(frozen=True, slots=True)
class _Place:
    """A piece of a parameter inside one of the optimiser's tensors."""

    home: Tensor  # the tensor that AdamW steps
    offset: int  # of the piece in `home`
    start: int  # of the piece in the flattened parameter
    numel: int


class Masters:
    """Fragments of every trainable parameter, by name in the order of the module."""

    def __init__(self, deepspeed_engine: Any, task: nn.Module) -> None:
        self._zero_stage: int = deepspeed_engine.zero_optimization_stage()
        self._optimizer = deepspeed_engine.optimizer
        self._states: dict[Tensor, dict[str, Tensor]] = deepspeed_engine.basic_optimizer.state
        places = _find_places(deepspeed_engine, task)
        for place in places.values():
            self._fill_state(place.home)
        self.fragments: dict[str, Fragment] = {
            name: self._fragment(parameter, places.get(name))
            for name, parameter in task.named_parameters()
            if parameter.requires_grad
        }

    @property
    def replicated(self) -> bool:
        """True where every rank holds all of every parameter."""
        return self._zero_stage == 0 or world_size() == 1

    def gather(self, kind: Kind) -> Iterator[tuple[str, Tensor | None]]:
        """Whole parameters by name, fp32 on the CPU of rank 0, None elsewhere. All ranks call."""
        for name, fragment in self.fragments.items():
            yield name, self.assemble(fragment, fragment.piece(kind))

    def assemble(self, fragment: Fragment, piece_F: Tensor) -> Tensor | None:
        """The whole of a tensor that is cut as `fragment` is. All ranks call."""
        if self.replicated:
            return piece_F.detach().cpu().clone().view(fragment.shape) if is_main() else None
        whole_F = _communicable(torch.zeros(fragment.shape.numel(), device=piece_F.device))
        whole_F[fragment.start : fragment.start + piece_F.numel()] = piece_F
        dist.reduce(whole_F, dst=0)
        return whole_F.cpu().view(fragment.shape) if is_main() else None

    def scatter(self, kind: Kind, source: Callable[[str], Tensor]) -> None:
        """Sets every piece from whole tensors that rank 0 finds in `source`. All ranks call.

        Setting "master" also sets the weights that the module computes with.
        """
        for name, fragment in self.fragments.items():
            whole_F = self.distribute(fragment, source(name) if is_main() else None)
            piece_F = fragment.piece(kind)
            piece_F.copy_(whole_F[fragment.start : fragment.start + piece_F.numel()])
            if kind == "master":
                self._publish(fragment, whole_F)

    def distribute(self, fragment: Fragment, whole: Tensor | None) -> Tensor:
        """Rank 0's whole tensor on every rank, flat, fp32."""
        if whole is None:
            whole_F = torch.empty(fragment.shape.numel(), dtype=torch.float32)
        else:
            whole_F = whole.detach().float().reshape(-1)
        whole_F = _communicable(whole_F.to(fragment.master.device))
        if world_size() > 1:
            dist.broadcast(whole_F, src=0)
        return whole_F

    def set_step(self, step: int) -> None:
        """Sets AdamW's count of steps taken, which its bias correction reads."""
        for state in self._states.values():
            state["step"].fill_(step)

    def _fill_state(self, home: Tensor) -> None:
        """Gives AdamW its moments before its first step, in the form it would make them."""
        state = self._states[home]
        if "exp_avg" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=home.device)
            state["exp_avg"] = torch.zeros_like(home, requires_grad=False)
            state["exp_avg_sq"] = torch.zeros_like(home, requires_grad=False)

    def _fragment(self, parameter: nn.Parameter, place: _Place | None) -> Fragment:
        shape = parameter.ds_shape if self._zero_stage == 3 else parameter.shape  # type: ignore[attr-defined]
        if place is None:
            empty = torch.empty(0, device=self._any_device())
            return Fragment(parameter, shape, 0, empty, empty, empty)
        state = self._states[place.home]
        tensors = (place.home.detach(), state["exp_avg"], state["exp_avg_sq"])
        master, exp_avg, exp_avg_sq = (
            tensor.view(-1).narrow(0, place.offset, place.numel) for tensor in tensors
        )
        return Fragment(parameter, shape, place.start, master, exp_avg, exp_avg_sq)

    def _any_device(self) -> torch.device:
        return next(iter(self._states)).device

    @torch.no_grad()
    def _publish(self, fragment: Fragment, whole_F: Tensor) -> None:
        parameter = fragment.parameter
        if self._zero_stage < 3:
            parameter.data.copy_(whole_F.view(fragment.shape))
            return
        shard_F = parameter.ds_tensor  # type: ignore[attr-defined]
        shard_F.data[: fragment.master.numel()].copy_(fragment.master)
        if parameter.data.shape == fragment.shape:  # small parameters stay whole on every rank
            parameter.data.copy_(whole_F.view(fragment.shape))


def _find_places(deepspeed_engine: Any, task: nn.Module) -> Mapping[str, _Place]:
    """Where this rank's piece of each trainable parameter lives; no entry where it has none."""
    named = [(name, p) for name, p in task.named_parameters() if p.requires_grad]
    stage = deepspeed_engine.zero_optimization_stage()
    if stage == 3:
        found = {name: _stage3_place(deepspeed_engine.optimizer, p) for name, p in named}
    elif stage > 0:
        base = deepspeed_engine.basic_optimizer
        found = {name: _stage12_place(base, p) for name, p in named}
    else:
        homes = _stage0_homes(deepspeed_engine, [p for _, p in named])
        found = {
            name: _Place(home, 0, 0, p.numel())
            for (name, p), home in zip(named, homes, strict=True)
        }
    return {name: place for name, place in found.items() if place is not None}


def _stage0_homes(deepspeed_engine: Any, parameters: list[nn.Parameter]) -> list[Tensor]:
    """fp32: the parameters themselves; bf16: DeepSpeed's fp32 copies, group by group."""
    optimizer = deepspeed_engine.optimizer
    if optimizer is deepspeed_engine.basic_optimizer:
        return list(parameters)
    copies = {
        id(low): high
        for lows, highs in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        for low, high in zip(lows, highs, strict=True)
    }
    return [copies[id(parameter)] for parameter in parameters]


def _stage12_place(base_optimizer: Any, parameter: nn.Parameter) -> _Place | None:
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return None
    home = base_optimizer.param_groups[mapping.param_group_index]["params"][0]
    inside, outside = mapping.hp_fragment_address, mapping.lp_fragment_address
    return _Place(home, inside.start, outside.start, inside.numel)


def _stage3_place(optimizer: Any, parameter: nn.Parameter) -> _Place | None:
    group, offset, padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
    start = padded * dist.get_rank()
    numel = min(padded, parameter.ds_numel - start)  # type: ignore[attr-defined]
    if numel <= 0:
        return None
    return _Place(optimizer.fp32_partitioned_groups_flat[group], offset, start, numel)


def _communicable(tensor: Tensor) -> Tensor:
    """Offloaded states lie in host memory, which NCCL can't send."""
    return tensor.cuda() if dist.is_initialized() and dist.get_backend() == "nccl" else tensor
