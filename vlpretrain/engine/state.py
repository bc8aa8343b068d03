"""What a checkpoint says about itself, and how it is found to be whole. No process group needed.

    step-<n>/master.safetensors      fp32 weights          exp_avg.safetensors      AdamW's
    step-<n>/average.safetensors     of the weights, maybe exp_avg_sq.safetensors   moments
    step-<n>/buffers.safetensors     rank 0's, maybe       state.json               the rest
Everything is whole and by parameter name, whatever the ZeRO stage and world size that wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlpretrain.config.schema import RunConfig

STATE = "state.json"
FORMAT = 1
CHUNK = 1 << 22  # bytes hashed at once


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. The data's state is the step: global batches are numbered by it."""

    step: int = 0
    seconds: float = 0.0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """The content of state.json."""

    progress: Progress
    samples_seen: int
    global_batch: int
    config_digest: str
    ranks: int
    versions: dict[str, str]
    files: dict[str, FileMark]
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class FileMark:
    """What a file of a checkpoint must be to be whole."""

    bytes: int
    sha256: str


def config_digest(config: RunConfig) -> str:
    text = json.dumps(asdict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mark_file(path: Path) -> FileMark:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return FileMark(path.stat().st_size, digest.hexdigest())


def write_state(folder: Path, state: CheckpointState) -> None:
    (folder / STATE).write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")


def read_state(folder: Path) -> CheckpointState:
    """
    Raises:
        ValueError: the file is missing, damaged or of another format.
    """
    try:
        content: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"{STATE} has format {content['format']}, not {FORMAT}")
        content["progress"] = Progress(**content["progress"])
        content["files"] = {name: FileMark(**mark) for name, mark in content["files"].items()}
        return CheckpointState(**content)
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{STATE} can't be read: {error}") from error


def find_damage(folder: Path) -> str:
    """Why a checkpoint can't be used; empty when every file is what was written."""
    try:
        state = read_state(folder)
    except ValueError as error:
        return str(error)
    for name, mark in state.files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != mark.bytes:
            return f"{name} has {path.stat().st_size} bytes, not {mark.bytes}"
        if mark_file(path) != mark:
            return f"{name} is not what was written (its hash differs)"
    return ""


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, newest first."""
    steps = {
        int(match[1]): path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"step-(\d+)", path.name))
    }
    return [steps[step] for step in sorted(steps, reverse=True)]


def remove_older(folder: Path, keep: int) -> None:
    """Deletes all but the newest `keep` checkpoints, and what a killed run left unfinished."""
    for path in list_checkpoints(folder)[max(keep, 1) :]:
        # Out of the list first: a deletion that is cut short leaves nothing that looks whole.
        doomed = path.with_name(path.name + ".partial")
        path.rename(doomed)
    for path in folder.glob("step-*.partial"):
        shutil.rmtree(path)


def sync_to_disk(path: Path) -> None:
    """Returns once a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
