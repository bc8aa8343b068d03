"""Checkpoints: written whole or not at all, and read at any world size, precision or ZeRO stage."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlpretrain.config.schema import RunConfig
from vlpretrain.distributed import is_main, world_size
from vlpretrain.engine.masters import KINDS
from vlpretrain.engine.run_folder import RunFolder
from vlpretrain.engine.start import Engine
from vlpretrain.engine.state import (
    CheckpointState,
    FileMark,
    Progress,
    config_digest,
    find_damage,
    list_checkpoints,
    mark_file,
    read_state,
    remove_older,
    sync_to_disk,
    write_state,
)
from vlpretrain.errors import UserError

Answer = TypeVar("Answer")
NAMES_SHOWN = 5


def save_checkpoint(engine: Engine, folder: Path, progress: Progress, config: RunConfig) -> None:
    """Writes `folder/step-<n>`; older ones go once it is whole. All ranks call, rank 0 writes.

    Raises:
        UserError: it can't be written. What was begun is removed, older checkpoints stay.
    """
    target = folder / f"step-{progress.step}"
    partial = folder / f"step-{progress.step}.partial"
    on_main(lambda: _make_empty(partial))
    files: dict[str, FileMark] = {}
    for name, tensors in _contents(engine):
        whole = {key: tensor for key, tensor in tensors if tensor is not None}
        on_main(lambda: files.update(_write_tensors(partial, name, whole)))  # noqa: B023
    state = CheckpointState(
        progress=progress,
        samples_seen=progress.step * engine.split.global_batch,
        global_batch=engine.split.global_batch,
        config_digest=config_digest(config),
        ranks=world_size(),
        versions={name: metadata.version(name) for name in ("torch", "deepspeed")},
        files=files,
    )
    on_main(lambda: _commit(partial, target, state))
    on_main(lambda: remove_older(folder, config.checkpoint.keep))


def resume(engine: Engine, run: RunFolder, config: RunConfig) -> Progress:
    """Loads what `config.checkpoint.resume` says and returns where the run goes on. All ranks call.

    Raises:
        UserError: no such checkpoint, one that is damaged or of another architecture or global
            batch, or "never" and the run folder has one.
    """
    path = on_main(lambda: choose_checkpoint(run.checkpoints, config.checkpoint.resume))
    if path is None:
        on_main(lambda: run.begin(0))
        return Progress()
    progress = load_checkpoint(engine, path)
    on_main(lambda: run.begin(progress.step))
    run.say(f"going on from {path}")
    return progress


def choose_checkpoint(folder: Path, wish: str) -> Path | None:
    """The checkpoint to go on from: "auto", "never", or a path.

    Raises:
        UserError: as for `resume`.
    """
    found = list_checkpoints(folder)
    if wish == "never":
        if found:
            raise UserError(
                f"the run folder has checkpoints, the newest {found[0].name}",
                where="checkpoint.resume = never",
                fix='choose another `out`, or set checkpoint.resume to "auto"',
            )
        return None
    if wish != "auto":
        if not Path(wish).is_dir():
            there = ", ".join(path.name for path in list_checkpoints(Path(wish).parent)) or "none"
            raise UserError("no such checkpoint", where=wish, fix=f"in that folder: {there}")
        damage = find_damage(Path(wish))
        if damage:
            raise UserError(f"is no whole checkpoint: {damage}", where=wish)
        return Path(wish)
    for path in found:
        damage = find_damage(path)
        if not damage:
            return path
        print(f"warning: {path} is left out: {damage}", flush=True)
    return None


def load_checkpoint(engine: Engine, path: Path) -> Progress:
    """Sets weights, moments, average and buffers from a whole checkpoint. All ranks call.

    Raises:
        UserError: it was made by another architecture or with another global batch.
    """
    state = on_main(lambda: read_state(path))
    if state.global_batch != engine.split.global_batch:
        raise UserError(
            f"was made with train.global_batch {state.global_batch}, this run has "
            f"{engine.split.global_batch}; the samples seen could not be counted on",
            where=str(path),
            fix=f"set train.global_batch to {state.global_batch}, or start in another `out`",
        )
    on_main(lambda: _check_architecture(engine, path))
    with ExitStack() as stack:
        for kind in KINDS:
            engine.masters.scatter(kind, _opened(stack, path / f"{kind}.safetensors"))
        engine.masters.set_step(state.progress.step)
        if engine.average is not None:
            has_average = "average.safetensors" in state.files
            name = "average" if has_average else "master"
            engine.average.scatter(_opened(stack, path / f"{name}.safetensors"))
        if "buffers.safetensors" in state.files:
            _load_buffers(engine, _opened(stack, path / "buffers.safetensors"))
    return state.progress


def on_main(action: Callable[[], Answer]) -> Answer:
    """Does it on rank 0 and gives every rank the answer, or the UserError."""
    outcome: list[Any] = [None, ()]
    if is_main():
        try:
            outcome = [action(), ()]
        except UserError as error:
            outcome = [None, (error.problem, error.where, error.fix)]
    if world_size() > 1:
        dist.broadcast_object_list(outcome, src=0)
    answer: Answer = outcome[0]
    if outcome[1]:
        problem, where, fix = outcome[1]
        raise UserError(problem, where=where, fix=fix)
    return answer


def _contents(engine: Engine) -> Iterator[tuple[str, Iterable[tuple[str, Tensor | None]]]]:
    """The files of a checkpoint and what is in them, one file's tensors in memory at a time."""
    for kind in KINDS:
        yield f"{kind}.safetensors", engine.masters.gather(kind)
    if engine.average is not None:
        yield "average.safetensors", engine.average.gather()
    buffers = named_buffers(engine)
    if buffers:
        yield "buffers.safetensors", buffers.items()


def named_buffers(engine: Engine) -> dict[str, Tensor]:
    """The buffers that belong to the model's state (the persistent ones), on the CPU."""
    return {
        f"{prefix}.{name}".lstrip("."): buffer.detach().cpu().clone()
        for prefix, module in engine.task.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }


def _load_buffers(engine: Engine, source: Callable[[str], Tensor]) -> None:
    for name, buffer in named_buffers(engine).items():
        value = on_main(lambda: source(name))  # noqa: B023
        engine.task.get_buffer(name).copy_(value.to(buffer.dtype))


def _opened(stack: ExitStack, path: Path) -> Callable[[str], Tensor]:
    """Tensors of a file by name, read one at a time on rank 0; never called on the others."""
    if not is_main():
        return _no_source
    return stack.enter_context(safe_open(path, framework="pt")).get_tensor


def _no_source(name: str) -> Tensor:
    raise RuntimeError(f"only rank 0 reads {name} from a checkpoint")


def _check_architecture(engine: Engine, path: Path) -> None:
    with safe_open(path / "master.safetensors", framework="pt") as file:
        theirs = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    ours = {name: tuple(fragment.shape) for name, fragment in engine.masters.fragments.items()}
    differing = [
        f"{name}: {theirs.get(name, 'absent')} in the checkpoint, {ours.get(name, 'absent')} here"
        for name in sorted(set(ours) | set(theirs))
        if ours.get(name) != theirs.get(name)
    ]
    if differing:
        raise UserError(
            f"is of another architecture: {len(differing)} parameters differ, the first are\n    "
            + "\n    ".join(differing[:NAMES_SHOWN]),
            where=str(path),
            fix="use the model section of the configuration that made it, or another `out`",
        )


def _make_empty(partial: Path) -> None:
    if partial.exists():
        shutil.rmtree(partial)
    _or_user_error(partial, lambda: partial.mkdir(parents=True))


def _write_tensors(partial: Path, name: str, tensors: dict[str, Tensor]) -> dict[str, FileMark]:
    path = partial / name

    def write() -> FileMark:
        save_file(tensors, path)
        sync_to_disk(path)
        return mark_file(path)

    return {name: _or_user_error(partial, write)}


def _commit(partial: Path, target: Path, state: CheckpointState) -> None:
    def commit() -> None:
        write_state(partial, state)
        sync_to_disk(partial / "state.json")
        sync_to_disk(partial)
        if target.exists():  # a damaged one of the same step
            shutil.rmtree(target)
        partial.rename(target)
        sync_to_disk(target.parent)

    _or_user_error(partial, commit)


def _or_user_error(partial: Path, write: Callable[[], Answer]) -> Answer:
    """Runs a write; where it fails, removes what was begun and says what is missing."""
    try:
        return write()
    except (OSError, SafetensorError) as error:
        problem = _write_problem(error, partial)  # before there is room again
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            problem,
            where=str(partial.parent),
            fix="free space or choose another `out`; older checkpoints are untouched",
        ) from error


def _write_problem(error: Exception, partial: Path) -> str:
    free = shutil.disk_usage(partial.parent).free if partial.parent.exists() else 0
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    full |= "No space left" in str(error)
    cause = "the disk is full" if full else str(error)
    return f"{partial.name} could not be written: {cause} ({free / 1e6:.0f} MB free)"
