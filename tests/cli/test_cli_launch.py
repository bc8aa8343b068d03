"""Who is a rank, what is started, and how a failure reaches the screen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from vlpretrain.cli import failure, launch
from vlpretrain.cli.arguments import read_launch_options
from vlpretrain.errors import UserError

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


@pytest.mark.parametrize(
    ("env", "is_rank"),
    [
        ({}, False),
        ({"RANK": "0"}, False),
        ({"RANK": "1", "WORLD_SIZE": "2"}, True),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}, True),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, False),  # the batch script, no job step
        (OPEN_MPI, True),
    ],
)
def test_the_environment_tells_a_rank_from_a_launcher(env: dict[str, str], is_rank: bool) -> None:
    assert (launch.rank_environment(env) is not None) == is_rank


def test_open_mpi_is_told_in_torchs_words() -> None:
    found = launch.rank_environment(OPEN_MPI)
    assert found is not None
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"]) == ("3", "4", "1")


def test_launch_options_stand_anywhere() -> None:
    options = read_launch_options(["run.yaml", "--processes", "2", "--optim.lr", "3", "--out=a"])
    assert options.processes == 2
    assert options.rest == ["run.yaml", "--optim.lr", "3", "--out=a"]
    with pytest.raises(UserError, match="processes"):
        read_launch_options(["run.yaml", "--processes", "0"])


def test_the_cores_are_divided_unless_chosen() -> None:
    cores = len(os.sched_getaffinity(0))
    assert launch.cpu_environment(1, {})["OMP_NUM_THREADS"] == str(cores)
    assert launch.cpu_environment(10 * cores, {})["OMP_NUM_THREADS"] == "1"
    assert launch.cpu_environment(1, {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"


def rank_script(*lines: str) -> list[str]:
    """A command that stands for DeepSpeed's launcher with one rank in it."""
    head = "import os, sys; from vlpretrain.cli import failure, launch"
    return [sys.executable, "-c", "\n".join([head, *lines])]


def test_the_first_failure_is_said_last_and_sets_the_exit_code(
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = rank_script(
        "from vlpretrain.errors import UserError",
        "failure.report_of_rank(UserError('no shards', where='data.train'), rank=1)",
        "failure.report_of_rank(RuntimeError('connection lost'), rank=0)",
        "print('launcher noise', file=sys.stderr)",
        "sys.exit(1)",
    )
    assert launch.start(command, {}) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert said[-1] == "error: data.train: no shards"
    assert sum("no shards" in line for line in said) == 1


def test_a_bug_keeps_its_traceback_and_names_its_rank(capfd: pytest.CaptureFixture[str]) -> None:
    command = rank_script(
        "try: {}['missing']",
        "except KeyError as error: sys.exit(failure.report_of_rank(error, rank=3))",
    )
    assert launch.start(command, {}) == 1
    said = capfd.readouterr().err
    assert "Traceback" in said
    assert "rank 3" in said.strip().splitlines()[-1]


def test_a_lost_connection_after_a_mistake_brings_no_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = rank_script(
        "from vlpretrain.errors import UserError",
        "failure.report_of_rank(UserError('no shards'), rank=0)",
        "failure.report_of_rank(RuntimeError('Connection reset by peer'), rank=1)",
        "failure.report_of_rank(RuntimeError('anything else'), rank=2)",
        "sys.exit(1)",
    )
    assert launch.start(command, {}) == 2
    assert capfd.readouterr().err == "error: no shards\n"


@pytest.mark.parametrize("heard", ["Connection closed by peer [127.0.0.1]:1234", ""])
def test_a_killed_rank_is_the_last_thing_said(
    heard: str, capfd: pytest.CaptureFixture[str]
) -> None:
    others = f"failure.report_of_rank(RuntimeError({heard!r}), rank=0)" if heard else ""
    assert launch.start(rank_script(others, "os.kill(os.getpid(), 9)"), {}) != 0
    said = capfd.readouterr().err
    assert said.startswith("error: a process of the run is gone")
    assert "fix:" in said


def test_a_full_disk_is_a_mistake_of_the_users() -> None:
    found = failure.describe(OSError(28, "No space left on device", "/runs/x"))
    assert found.exit_code == 2
    assert "/runs/x: the disk is full" in found.message


LAUNCHER = """
import os, subprocess, sys
from vlpretrain.cli import launch
rank = "import os, sys, time; from vlpretrain.cli import launch;" + sys.argv[1]
inner = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {rank!r}]))"
runner = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {inner!r}]))"
sys.exit(launch.start([sys.executable, "-c", runner], {}))
"""


def start_launcher(rank: str) -> subprocess.Popen[str]:
    """A launcher, a runner and a launcher of DeepSpeed's, and one rank that runs `rank`."""
    command = [sys.executable, "-c", textwrap.dedent(LAUNCHER), rank]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_rank_which_ends_in_its_own_way(signum: signal.Signals) -> None:
    process = start_launcher(
        f"import signal; signal.signal({int(signum)}, lambda *_: os._exit(7));"
        "print('ready', flush=True); time.sleep(60)"
    )
    process.send_signal(signum)
    assert process.wait(timeout=30) == 7


def test_a_rank_does_not_outlive_its_launcher(tmp_path: Path) -> None:
    process = start_launcher(
        "launch._follow(int(os.environ[launch.LAUNCHER_PID]));"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()));"
        "print('ready', flush=True); time.sleep(60)"
    )
    rank = int((tmp_path / "pid").read_text())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while is_running(rank) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not is_running(rank)


def is_running(pid: int) -> bool:
    """False for a process that is gone, or dead and not yet collected by its parent."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
