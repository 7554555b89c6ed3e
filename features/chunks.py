"""A batch cut into chunks, each the bytes of one script's call, ready for the socket.

Which chunk an entity belongs to is part of the stored format: whoever takes over a batch in the
middle cuts it the same way. Packing a command argument by argument would cost more than all the
rest of a worker does for it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tenuto.features.aggregate import Deltas

ENTITIES_PER_CHUNK = 100
# Limits of one script, so that none runs long.
_MAX_ENTITIES, _MAX_BYTES = 1_500, 1 << 20


@dataclass(frozen=True, slots=True)
class Chunk:
    """The entities of one script: how many, their keys and their deltas, as arguments."""

    entities: int
    keys: bytes
    packed: bytes


def cut(deltas: Deltas, prefix: bytes, chunks: int = 0) -> list[Chunk]:
    """Cut a batch's entities into chunks by the CRC-32 of their keys.

    Args:
        deltas: what the batch adds.
        prefix: of the store's keys.
        chunks: into how many, where a batch in progress says it; else as many as keep every
            script within its limits.
    """
    hashes = np.fromiter(map(zlib.crc32, deltas.keys), np.uint32, len(deltas))
    sizes = np.fromiter(map(len, deltas.packed), np.int64, len(deltas))
    if not chunks:
        chunks = _fitting(hashes, sizes)
    chunk_of = hashes % chunks
    order = np.argsort(chunk_of, kind="stable").tolist()
    bounds = np.bincount(chunk_of, minlength=chunks).cumsum().tolist()
    heads = _Heads(prefix)
    keys = [heads[len(key)] + key for key in map(deltas.keys.__getitem__, order)]
    packed = list(map(deltas.packed.__getitem__, order))
    found = []
    low = 0
    for high in bounds:
        part = b"".join(packed[low:high])
        found.append(Chunk(high - low, b"".join(keys[low:high]), part))
        low = high
    return found


class _Heads(dict[int, bytes]):
    """What stands before a key of so many bytes in a command, prefix included."""

    def __init__(self, prefix: bytes) -> None:
        super().__init__()
        self._prefix = prefix

    def __missing__(self, length: int) -> bytes:
        head = b"\r\n$%d\r\n%b" % (len(self._prefix) + length, self._prefix)
        self[length] = head
        return head


def _fitting(hashes: NDArray[np.uint32], sizes: NDArray[np.int64]) -> int:
    """How many chunks keep every script within its limits, by count and by bytes."""
    chunks = max(1, -(-len(hashes) // ENTITIES_PER_CHUNK))
    # One entity alone over the limit: no cut can mend that.
    while chunks <= 4 * max(1, len(hashes)):
        chunk_of = hashes % chunks
        entities = np.bincount(chunk_of, minlength=chunks)
        weights = np.bincount(chunk_of, sizes, minlength=chunks)
        if entities.max() <= _MAX_ENTITIES and weights.max() <= _MAX_BYTES:
            break
        chunks *= 2
    return chunks
