"""Randomness as a function of names: no generator has a state that a restart could lose."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray


def id_noise(seed: int, table: str, name: str, size: int) -> NDArray[np.float32]:
    """Noise of one id's new row, ``(size,) float32`` uniform in [-1, 1)."""
    digest = hashlib.shake_128(f"{seed}\0{table}\0{name}".encode()).digest(4 * size)
    return (np.frombuffer(digest, "<i4") / np.float32(2**31)).astype(np.float32)


def hidden(seed: int, batch: int, rows: int, share: float) -> NDArray[np.bool_]:
    """Which rows of a batch hide their position from the model, ``(rows,) bool``."""
    drawn = np.random.Generator(np.random.Philox(key=[seed, batch])).random(rows)
    return drawn < share


def generator(seed: int, name: str) -> torch.Generator:
    """For the first values of the parameter of that name."""
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
