"""One curve, however the training is divided: ZeRO stages, processes, accumulation, resumption.

Everything runs in one launch of two processes and, at the same time, in this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))

from engine_runs import as_one_rank
from engine_scenarios import STAGES, Curves, every_division, resume_from

from vlpretrain.engine.processes import free_port

pytestmark = pytest.mark.distributed
SCRIPT = Path(__file__).with_name("engine_scenarios.py")
DIVISIONS = [f"{precision}-stage{stage}" for precision in ("fp32", "bf16") for stage in STAGES]


@dataclass(frozen=True)
class Both:
    """What one process and two processes found, and the folder of the two."""

    one: Curves
    two: Curves
    two_folder: Path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with launched(2, SCRIPT, str(two)), as_one_rank():
        curves_one = every_division(one)
    with as_one_rank():
        curves_one |= {f"resumed-stage{s}": resume_from(two, one, s) for s in STAGES}
    return Both(curves_one, json.loads((two / "curves.json").read_text()), two)


@contextmanager
def launched(processes: int, script: Path, *arguments: str) -> Iterator[None]:
    """Runs a script through DeepSpeed's launcher, without a GPU, and waits for its end."""
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--quiet", "--no_local_rank"]
    command += ["--num_accelerators", str(processes), "--master_port", str(free_port())]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, str(script), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        yield
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output


@pytest.mark.parametrize("division", DIVISIONS)
def test_every_division_gives_one_curve(both: Both, division: str) -> None:
    precision = division.partition("-")[0]
    expected = both.one[f"{precision}-stage0"]
    tolerance = 1e-5 if precision == "fp32" else 0.02
    assert len(expected) == 20
    assert both.one[division] == pytest.approx(expected, rel=tolerance)
    assert both.two[division] == pytest.approx(expected, rel=tolerance)


def test_accumulation_gives_the_same_curve_as_processes(both: Both) -> None:
    expected = both.one["accumulated-1"]
    for curves in (both.one, both.two):
        for name in (name for name in curves if name.startswith("accumulated")):
            assert curves[name] == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_goes_on_at_another_world_size_and_stage(both: Both, stage: int) -> None:
    expected = both.one["fp32-stage0"][10:]
    assert both.one[f"resumed-stage{stage}"] == pytest.approx(expected, rel=1e-5)
    assert both.two[f"resumed-stage{stage}"] == pytest.approx(expected, rel=1e-5)


def test_one_ranks_non_finite_loss_stops_all_with_its_samples(both: Both) -> None:
    messages = [(both.two_folder / f"stopped-{rank}.txt").read_text() for rank in (0, 1)]
    assert messages[0] == messages[1]
    assert "the 4 samples concerned begin with s2/k4" in messages[0]
    assert not list((both.two_folder / "non-finite/checkpoints").iterdir())
