"""Randomness and identity that hang on a sample's key, never on a worker, rank or machine."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, epoch: int, key: str, purpose: str) -> np.random.Generator:
    """A generator of its own for each (seed, epoch, sample key, purpose)."""
    name = f"{seed}\0{epoch}\0{purpose}\0{key}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(name, digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def stable_hash(content: str | bytes) -> int:
    """A number from 0 to 2^63 - 1, the same on every machine and in every process."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1
