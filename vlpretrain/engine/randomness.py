"""Randomness of a forward pass as a function of where it stands.

torch is seeded before every forward, so a run needs no generator state to go on exactly, and a
micro-batch's dropout can be replayed.
"""

from __future__ import annotations

from hashlib import blake2b

import torch


def keyed_seed(*parts: int) -> int:
    """63 well-mixed bits of a tuple of integers, the same on every machine."""
    text = ",".join(str(part) for part in parts).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1


def seed_forward(batch_seed: int, rank: int) -> None:
    """Seeds torch's generators (CPU and every GPU) for one rank's forward of one micro-batch."""
    torch.manual_seed(keyed_seed(batch_seed, rank))
