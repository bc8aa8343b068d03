"""One process a device: who starts them, how they find each other, what they may use."""

from __future__ import annotations

import logging
import os
import re
import socket
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist

# A rank that is gone is noticed at once by gloo and by the launcher; this bounds the rest.
TIMEOUT = timedelta(minutes=10)


def join_processes() -> torch.device:
    """Joins the run's process group and returns this process's device.

    Knows the environment of DeepSpeed's launcher, torchrun and srun; without any of them the run
    has one process.
    """
    os.environ.update(launch_environment(dict(os.environ)))
    device = own_device(int(os.environ["LOCAL_RANK"]))
    share_threads(int(os.environ["LOCAL_WORLD_SIZE"]))
    torch.set_flush_denormal(True)
    if not dist.is_initialized():
        _init_deepspeed(device)
    return device


def _init_deepspeed(device: torch.device) -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if device.type == "cuda" else "cpu")
    import deepspeed  # takes seconds, so only here

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed calls collectives by names that newer torch warns about, at every step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # Its shared-memory collectives are compiled on first use, which takes a compiler and a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="nccl" if device.type == "cuda" else "gloo",
        auto_mpi_discovery=False,
        verbose=False,
        timeout=TIMEOUT,
    )


def launch_environment(env: dict[str, str]) -> dict[str, str]:
    """The torch.distributed variables that this process should run with."""
    if "RANK" in env and "WORLD_SIZE" in env:  # DeepSpeed's launcher, torchrun
        found = {"LOCAL_RANK": env.get("LOCAL_RANK", "0")}
        found["LOCAL_WORLD_SIZE"] = env.get("LOCAL_WORLD_SIZE") or env.get(
            "LOCAL_SIZE", env["WORLD_SIZE"]
        )
        return found
    # A batch script has SLURM_PROCID too, but is no rank: only a job step has this.
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in env:
        return slurm_environment(env)
    return {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }


def slurm_environment(env: dict[str, str]) -> dict[str, str]:
    """The same, read from what srun sets. The port is a function of the job's number."""
    tasks = int(env["SLURM_STEP_NUM_TASKS"])
    nodes = int(env.get("SLURM_STEP_NUM_NODES", "1"))
    hosts = env.get("SLURM_STEP_NODELIST", "127.0.0.1")
    return {
        "RANK": env["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": env.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": str(-(-tasks // nodes)),
        "MASTER_ADDR": env.get("MASTER_ADDR") or first_host(hosts),
        "MASTER_PORT": env.get("MASTER_PORT")
        or str(20000 + int(env.get("SLURM_JOB_ID", "0")) % 20000),
    }


def first_host(nodelist: str) -> str:
    """The first name of Slurm's compact list: "gpu[003-007,9],x1" -> "gpu003"."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", nodelist)
    return "".join(part or "" for part in match.groups()) if match else nodelist


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def share_threads(local_ranks: int) -> None:
    """Divides this machine's cores among its ranks, where the user has not chosen."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_ranks))
