"""Twenty losses of a tiny pretraining, which no refactor may move.

A change on purpose is written down with `UPDATE_GOLDEN=1 pytest tests/golden` and explained in its
commit.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))

from engine_pretrain import PretrainLoader, tiny_pretraining
from engine_runs import as_one_rank, config, run_toy

GOLDEN = Path(__file__).with_name("pretraining_losses.txt")
COLUMNS = ("loss", "loss/mim", "loss/itm", "loss/itc", "loss/mlm", "grad_norm")


def test_pretraining_gives_the_golden_losses(tmp_path: Path) -> None:
    with as_one_rank():
        run = run_toy(
            tmp_path, config(1, micro_batch=4), 20, tiny_pretraining(), PretrainLoader(4, 2)
        )
    # An objective that does not run yet has no figure: nan.
    found = [[float(line.get(name, "nan")) for name in COLUMNS] for line in run.lines]
    if "UPDATE_GOLDEN" in os.environ:
        write_golden(found)
    assert len(found) == 20
    for step, (row, expected) in enumerate(zip(found, read_golden(), strict=True)):
        # Other machines add in another order.
        assert row == pytest.approx(expected, rel=1e-4, nan_ok=True), f"step {step}"


def read_golden() -> list[list[float]]:
    lines = GOLDEN.read_text().splitlines()
    return [[float(figure) for figure in line.split()] for line in lines if line[0] != "#"]


def write_golden(rows: list[list[float]]) -> None:
    lines = ["# " + " ".join(COLUMNS), *(" ".join(f"{x:.9g}" for x in row) for row in rows)]
    GOLDEN.write_text("\n".join(lines) + "\n")
