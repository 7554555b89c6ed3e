"""A fast 64-bit hash of Arrow strings, over their buffers: no Python per string.

It only finds candidates: whoever uses it compares the strings themselves before anything is
chosen, so a collision costs time and never a wrong answer. It is not meant to withstand an
attacker, and nothing stores it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

StringHash = Callable[[pa.Array], NDArray[np.uint64]]
"""Strings (n,) to their hashes (n,) uint64: equal strings, equal hashes."""

_WORD = 8
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FINISH = np.uint64(0xFF51AFD7ED558CCD)
_ROTATE, _UNROTATE = np.uint64(29), np.uint64(35)
_HALF = np.uint64(32)
# What to keep of a little-endian word of which only the first 0..8 bytes belong to the string.
_MASKS = np.array([2 ** (8 * length) - 1 for length in range(_WORD + 1)], dtype=np.uint64)


def hash64(strings: pa.Array) -> NDArray[np.uint64]:
    """Hash strings of type ``string`` or ``large_string``, without nulls, to (n,) uint64."""
    bounds, data = _bytes_of(strings)
    starts, lengths = bounds[:-1], np.diff(bounds)
    hashes = lengths.astype(np.uint64) * _FINISH
    # Every offset of the bytes read as an (unaligned) word; the padding lets the last one end.
    padded = np.concatenate([data, np.zeros(_WORD, dtype=np.uint8)])
    words = np.ndarray((len(data) + 1,), dtype="<u8", buffer=padded, strides=(1,))
    at = 0
    live = np.flatnonzero(lengths)
    while len(live):
        left = lengths[live] - at
        word = words[starts[live] + at] & _MASKS[np.minimum(left, _WORD)]
        hashes[live] = _mix(hashes[live], word)
        at += _WORD
        live = live[left > _WORD]
    hashes ^= hashes >> _HALF
    hashes *= _FINISH
    hashes ^= hashes >> _HALF
    return hashes


def _mix(state: NDArray[np.uint64], word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ word) * _MULTIPLIER
    return (state << _ROTATE) | (state >> _UNROTATE)


def _bytes_of(strings: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Offsets (n + 1,) from 0 and the bytes that they cut."""
    width = np.int64 if pa.types.is_large_string(strings.type) else np.int32
    _, offsets, data = strings.buffers()
    if offsets is None or len(strings) == 0:
        return np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.uint8)
    bounds = np.frombuffer(offsets, dtype=width)[strings.offset :][: len(strings) + 1]
    bounds = bounds.astype(np.int64)
    if data is None:
        return bounds - bounds[0], np.zeros(0, dtype=np.uint8)
    return bounds - bounds[0], np.frombuffer(data, dtype=np.uint8)[bounds[0] : bounds[-1]]
