"""One process a device: `python -m vlpretrain.cli.launch COMMAND CONFIG ...`, where the command is
pretrain, finetune or evaluate.

Inside torchrun, srun or mpirun this process is a rank and trains. Anywhere else it starts
DeepSpeed's launcher, which starts this module again for every rank, and waits for it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

from vlpretrain.cli import failure
from vlpretrain.cli.arguments import LaunchOptions, read_launch_options, read_run_config
from vlpretrain.config.check import check, check_evaluation
from vlpretrain.config.schema import RunConfig
from vlpretrain.errors import UserError

# The launcher's process id, for its ranks: a rank does not outlive it.
LAUNCHER_PID = "VLPRETRAIN_LAUNCHER_PID"

COMMANDS = ("pretrain", "finetune", "evaluate")

INTERRUPTED_CODE = 128 + signal.SIGINT
_PORTS = range(20_000, 32_000)
# The end of a run, and its end on request, need no further word.
_EXPECTED_CODES = (0, INTERRUPTED_CODE, 128 + signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not given or given[0] not in COMMANDS:
            raise UserError(
                f"can't launch {' '.join(given[:1]) or 'nothing'}",
                fix=f"{' | '.join(COMMANDS)} CONFIG",
            )
        return launch(given[0], given[1:])
    except (UserError, OSError) as error:
        return failure.report(error)
    except KeyboardInterrupt:
        return INTERRUPTED_CODE


def launch(command: str, arguments: Sequence[str]) -> int:
    """Runs a command: as a rank, or by starting all ranks. Returns the exit code of the whole."""
    options = read_launch_options(arguments)
    ranks = rank_environment(os.environ)
    if ranks is not None:
        os.environ.update(ranks)
        run_rank(command, options.rest)
    config = read_command_config(command, options.rest)
    if options.hostfile:
        check_command(command, config)
        return start(_several_machines(command, options), environment={})
    gpus = count_gpus()
    processes = options.processes or gpus or 1
    if gpus and processes > gpus:
        raise UserError(f"--processes {processes}, but there are {gpus} GPUs")
    check_command(command, config, processes)
    environment = {} if gpus else cpu_environment(processes, os.environ)
    return start(_one_machine(command, options, processes), environment)


def read_command_config(command: str, arguments: Sequence[str]) -> RunConfig:
    return read_run_config(arguments, prog=f"vlpretrain {command}")


def check_command(command: str, config: RunConfig, processes: int | None = None) -> None:
    """Raises UserError where the configuration can't be run, or is for another command."""
    if command == "evaluate":
        check_evaluation(config)
        return
    check(config, world_size=processes)
    if (command == "pretrain") != (config.task.name == "pretrain"):
        fitting = "pretrain" if config.task.name == "pretrain" else "finetune"
        raise UserError(
            f"{config.task.name!r} is not what `{command}` runs",
            where="task.name",
            fix=f"vlpretrain {fitting} CONFIG",
        )


def rank_environment(env: Mapping[str, str]) -> dict[str, str] | None:
    """The variables to add where another launcher has started this process; None where none has.

    torchrun and DeepSpeed set RANK; srun's are read by the engine. A batch script under Slurm is
    no rank: only a job step has SLURM_STEP_NUM_TASKS.
    """
    if "RANK" in env and "WORLD_SIZE" in env:
        return {}
    if "SLURM_PROCID" in env and int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return {}
    if "OMPI_COMM_WORLD_RANK" in env:
        return {
            "RANK": env["OMPI_COMM_WORLD_RANK"],
            "WORLD_SIZE": env["OMPI_COMM_WORLD_SIZE"],
            "LOCAL_RANK": env["OMPI_COMM_WORLD_LOCAL_RANK"],
            "LOCAL_WORLD_SIZE": env["OMPI_COMM_WORLD_LOCAL_SIZE"],
            "MASTER_ADDR": env.get("MASTER_ADDR", "127.0.0.1"),
            "MASTER_PORT": env.get("MASTER_PORT", "29500"),
        }
    return None


# --- a rank ---------------------------------------------------------------------------------------


def run_rank(command: str, arguments: Sequence[str]) -> NoReturn:
    """Works in this process, which ends here, whatever threads it has."""
    if LAUNCHER_PID in os.environ:
        _follow(int(os.environ[LAUNCHER_PID]))
    try:
        config = read_command_config(command, arguments)
        check_command(command, config)
        code = _work_of(command)(config)
    except Exception as error:
        code = failure.report_of_rank(error, rank=_own_rank(os.environ))
    except KeyboardInterrupt:
        code = INTERRUPTED_CODE
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a communication thread that waits for another rank would hold it up, or abort
    # the process when the interpreter is taken down around it.
    os._exit(code)


def _work_of(command: str) -> Callable[[RunConfig], int]:
    """What a rank does; imported here, since it takes seconds."""
    if command == "evaluate":
        from vlpretrain.cli.evaluate import run_evaluation

        return run_evaluation
    from vlpretrain.cli.train import run_training

    return run_training


def _own_rank(env: Mapping[str, str]) -> int:
    return int(env.get("RANK", env.get("SLURM_PROCID", "0")))


def _follow(launcher: int) -> None:
    """Ends this process when the launcher is gone, even if it was killed without a word."""

    def watch() -> None:
        while Path(f"/proc/{launcher}").exists():
            time.sleep(1.0)
        os._exit(failure.OTHER_ERROR_CODE)

    if Path("/proc").is_dir() and Path(f"/proc/{launcher}").exists():
        threading.Thread(target=watch, daemon=True).start()


# --- the launcher ---------------------------------------------------------------------------------


def start(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs DeepSpeed's launcher to its end; the first failure of a rank is shown last."""
    with tempfile.TemporaryDirectory(prefix="vlpretrain-") as folder:
        failure_file = Path(folder) / "failure.json"
        environment = {
            **os.environ,
            **environment,
            LAUNCHER_PID: str(os.getpid()),
            failure.FAILURE_FILE: str(failure_file),
        }
        code = _run_to_the_end(command, environment)
        first = failure.found(failure_file) if code else None
    if first is None:
        if code not in _EXPECTED_CODES:
            print(failure.LOST_RANK.message, file=sys.stderr)
        return code
    print(first.message, file=sys.stderr)
    return first.exit_code


def _run_to_the_end(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs a command; SIGINT and SIGTERM reach the ranks alone, which save and stop.

    In a session of its own, because DeepSpeed's launcher answers Ctrl-C by ending the ranks.
    """
    process = subprocess.Popen(command, env=dict(environment), start_new_session=True)

    def pass_on(signum: int, frame: FrameType | None) -> None:
        ranks = _ranks_below(process.pid)
        for receiver in ranks or _tree_of(process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                # Who starts the ranks would answer Ctrl-C with a traceback.
                receiver.send_signal(signum if ranks else signal.SIGTERM)

    former = {kind: signal.signal(kind, pass_on) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = process.wait()
    finally:
        for kind, handler in former.items():
            signal.signal(kind, handler)
    return code if code >= 0 else 128 - code


def _ranks_below(runner: int) -> list[psutil.Process]:
    """DeepSpeed's runner starts a launcher, and that the ranks."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [
            rank for launcher in psutil.Process(runner).children() for rank in launcher.children()
        ]
    return []


def _tree_of(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    return []


def _one_machine(command: str, options: LaunchOptions, processes: int) -> list[str]:
    port = os.environ.get("MASTER_PORT") or str(free_port())
    return _deepspeed(
        ["--num_gpus", str(processes), "--master_port", port], [command, *options.rest]
    )


def _several_machines(command: str, options: LaunchOptions) -> list[str]:
    if not Path(options.hostfile).is_file():
        raise UserError(
            f"no such hostfile: {options.hostfile}", fix="one line a machine: NAME slots=GPUS"
        )
    where = ["--hostfile", options.hostfile]
    if options.processes:
        where += ["--num_gpus", str(options.processes)]
    return _deepspeed(where, [command, *options.rest])


def _deepspeed(where: list[str], arguments: list[str]) -> list[str]:
    runner = [sys.executable, "-m", "deepspeed.launcher.runner", *where]
    module = ["--no_local_rank", "--log_level", "critical", "--module", "vlpretrain.cli.launch"]
    return [*runner, *module, *arguments]


def count_gpus() -> int:
    """GPUs of this machine that this process may use; none where DS_ACCELERATOR says cpu."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return 0
    import torch

    return torch.cuda.device_count()


def cpu_environment(processes: int, env: Mapping[str, str]) -> dict[str, str]:
    """The cores divided over the processes, where the user has not chosen."""
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    return {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": env.get("OMP_NUM_THREADS", str(threads)),
    }


def free_port() -> int:
    """A port below those that the system deals out itself: it is used only seconds later."""
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise UserError(
        f"no free port in {_PORTS.start} .. {_PORTS.stop - 1}", fix="set MASTER_PORT to a free one"
    )


if __name__ == "__main__":
    sys.exit(main())
