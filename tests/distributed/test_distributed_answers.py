"""Open answers are trained, ranked and written alike at every ZeRO stage and in two processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))

from answer_scenarios import STAGES, every_stage
from engine_runs import as_one_rank
from test_distributed_engine import launched

pytestmark = pytest.mark.distributed
SCRIPT = Path(__file__).with_name("answer_scenarios.py")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What one process found, and what two did."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with launched(2, SCRIPT, str(two)), as_one_rank():
        found = every_stage(one)
    return found, json.loads((two / "found.json").read_text())


@pytest.mark.parametrize("stage", STAGES)
def test_losses_and_answers_are_the_same(both, stage: int) -> None:
    expected = both[0]["stage0"]
    for found in both:
        ours = found[f"stage{stage}"]
        assert ours["losses"] == pytest.approx(expected["losses"], rel=1e-5)
        for name in ("scores", "likelihoods"):
            for row, wanted in zip(ours["said"][name], expected["said"][name], strict=True):
                assert row == pytest.approx(wanted, rel=1e-4)
        assert best_texts(ours) == best_texts(expected)


def best_texts(found: dict[str, Any]) -> list[list[int]]:
    """Without padding: a process alone stops earlier."""
    return [row[0][: row[0].index(2)] for row in found["said"]["texts"]]
