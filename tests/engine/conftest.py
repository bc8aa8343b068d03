"""Tests of the engine run it in their own process, as a run of one rank."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

import pytest
import torch

from vlpretrain.engine import join_processes


@pytest.fixture(scope="package", autouse=True)
def one_rank() -> Iterator[None]:
    """A process group of one; what joining changes is put back for the other tests."""
    threads = torch.get_num_threads()
    with mock.patch.dict(os.environ):
        join_processes()
        yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
