"""Which partition a request belongs to: murmur2 of its id, as Java and kafka-python compute it.

In bulk, for the door: records whose producer partitioned otherwise are found here. Nothing here
talks to a broker.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF
# Below this many keys of one length the loop in Python is cheaper than NumPy's calls.
_FEW = 24


def partition_of(request_ids: Sequence[str], n_partitions: int) -> NDArray[np.int64]:
    """Partition of each request: (ids,) int64, ``(murmur2(utf-8) & 0x7fffffff) % n_partitions``."""
    if n_partitions == 1:
        return np.zeros(len(request_ids), dtype=np.int64)
    hashes = murmur2_all([request_id.encode() for request_id in request_ids])
    return (hashes & np.uint32(0x7FFFFFFF)).astype(np.int64) % n_partitions


def murmur2_all(keys: Sequence[bytes]) -> NDArray[np.uint32]:
    """murmur2 of each key, (keys,) uint32; keys of one length are hashed together."""
    if len(keys) < _FEW:
        return np.array([murmur2(key) for key in keys], dtype=np.uint32)
    lengths = np.fromiter(map(len, keys), dtype=np.int64, count=len(keys))
    distinct = np.unique(lengths)
    if len(distinct) == 1:
        return _murmur2_of_one_length(keys, int(distinct[0]))
    hashes = np.empty(len(keys), dtype=np.uint32)
    for length in distinct.tolist():
        at = np.flatnonzero(lengths == length)
        group = [keys[index] for index in at.tolist()]
        if len(group) < _FEW:
            hashes[at] = [murmur2(key) for key in group]
        else:
            hashes[at] = _murmur2_of_one_length(group, length)
    return hashes


def murmur2(key: bytes) -> int:
    """murmur2 of one key as an unsigned 32-bit integer.

    As in ``org.apache.kafka.common.utils.Utils.murmur2``; librdkafka's default is another hash.
    """
    length = len(key)
    n_words = length >> 2
    state = _SEED ^ length
    for word in struct.unpack_from(f"<{n_words}I", key):
        word = (word * _M) & _MASK
        word ^= word >> 24
        state = ((state * _M) & _MASK) ^ ((word * _M) & _MASK)
    if length & 3:
        state = ((state ^ int.from_bytes(key[n_words << 2 :], "little")) * _M) & _MASK
    state = ((state ^ (state >> 13)) * _M) & _MASK
    return state ^ (state >> 15)


def _murmur2_of_one_length(keys: Sequence[bytes], length: int) -> NDArray[np.uint32]:
    n_words, n_rest = divmod(length, 4)
    m = np.uint32(_M)
    matrix = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), length)
    state = np.full(len(keys), _SEED ^ length, dtype=np.uint32)
    # One row per word, so that each step runs over contiguous memory.
    words = (
        np.ascontiguousarray(matrix[:, : n_words * 4]).view("<u4").T.astype(np.uint32, order="C")
    )
    words *= m
    words ^= words >> np.uint32(24)
    words *= m
    for word in words:
        state *= m
        state ^= word
    if n_rest:
        for place in range(n_rest):
            rest = matrix[:, n_words * 4 + place].astype(np.uint32)
            state ^= rest << np.uint32(8 * place)
        state *= m
    state ^= state >> np.uint32(13)
    state *= m
    state ^= state >> np.uint32(15)
    return state
