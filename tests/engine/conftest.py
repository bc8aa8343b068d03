"""Tests of the engine run it in their own process, as a run of one rank."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engine_runs import as_one_rank


@pytest.fixture(scope="package", autouse=True)
def one_rank() -> Iterator[None]:
    with as_one_rank():
        yield
