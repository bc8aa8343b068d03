"""One thread a process, in the tests and in what they start; no test changes how another computes.

Their models are tiny: a second thread brings nothing, and waits for its turn whenever the machine
has other work.
"""

import os
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def exact_small_numbers() -> Iterator[None]:
    """A run in this process rounds subnormal numbers to zero from then on."""
    yield
    torch.set_flush_denormal(False)
