"""How a process says why it stops: a mistake of the user's without a traceback, said once.

Every rank of a run may fail for one and the same reason. Under our own launcher the first rank to
fail leaves its reason in a file, which the launcher shows last of all; elsewhere rank 0 speaks,
and the others only where rank 0 does not end the run.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vlpretrain.errors import UserError

# Set by the launcher for its ranks: where the first failure is left.
FAILURE_FILE = "VLPRETRAIN_FAILURE_FILE"

USER_ERROR_CODE, OTHER_ERROR_CODE = 2, 1
# A launcher that sees rank 0 fail ends the others well within this.
_OTHERS_WAIT_SECONDS = 5.0

# What gloo and NCCL say on a rank when another one has gone.
_LOST_PEER = ("Connection reset by peer", "Connection closed by peer", "Broken pipe", "ncclRemote")


@dataclass(frozen=True)
class Failure:
    """Why a process stops."""

    message: str
    exit_code: int
    is_bug: bool = False  # the traceback is worth reading


LOST_RANK = Failure(
    "error: a process of the run is gone without a word: killed, or out of memory\n"
    "  fix: `dmesg` names what was killed; the same command goes on from the last checkpoint",
    OTHER_ERROR_CODE,
)


def describe(error: BaseException) -> Failure:
    """A mistake of the user's in their terms; anything else by its last line."""
    if isinstance(error, UserError):
        return Failure(f"error: {error}", USER_ERROR_CODE)
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _LOST_PEER):
        return LOST_RANK
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f"{error.filename}: " if error.filename else ""
        return Failure(
            f"error: {place}the disk is full\n  fix: free some space and run the command again",
            USER_ERROR_CODE,
        )
    return Failure(f"error: {type(error).__name__}: {error}", OTHER_ERROR_CODE, is_bug=True)


def report(error: BaseException) -> int:
    """Prints why this single process stops; returns the exit code."""
    failure = describe(error)
    if failure.is_bug:
        traceback.print_exception(error)
    else:
        print(failure.message, file=sys.stderr)
    return failure.exit_code


def report_of_rank(error: BaseException, rank: int) -> int:
    """The same for one of several ranks; the message reaches the screen once."""
    failure = describe(error)
    if failure.is_bug and not _another_was_first():
        traceback.print_exception(error)
    if FAILURE_FILE in os.environ:
        try:
            leave(failure, Path(os.environ[FAILURE_FILE]), rank)
        except OSError:  # the temporary folder may be what is full
            print(failure.message, file=sys.stderr)
    elif not failure.is_bug:
        if rank != 0:
            time.sleep(_OTHERS_WAIT_SECONDS)
        print(failure.message, file=sys.stderr)
    return failure.exit_code


def _another_was_first() -> bool:
    return Path(os.environ.get(FAILURE_FILE, "")).is_file()


def leave(failure: Failure, path: Path, rank: int) -> None:
    """Writes the failure unless another rank was first: what follows is only its consequence."""
    if failure.is_bug:
        message = f"{failure.message}\n  on rank {rank}; its traceback stands above"
        failure = replace(failure, message=message)
    unfinished = path.with_suffix(f".{rank}")
    unfinished.write_text(json.dumps(asdict(failure)))
    with contextlib.suppress(FileExistsError):
        os.link(unfinished, path)


def found(path: Path) -> Failure | None:
    """The failure that a rank left, if any did."""
    return Failure(**json.loads(path.read_text())) if path.exists() else None
