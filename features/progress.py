"""How far the store has read: one fixed-size entry per (topic, partition), in one string value.

The entry moves in the same atomic script as the deltas, which is what makes the state a function
of a prefix of the log. This module knows the bytes, ``scripts.py`` the scripts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROGRESS_DTYPE = np.dtype(
    [
        ("incarnation", "S16"),
        ("origin", "<i8"),
        ("origin_arrival", "<i8"),
        ("next", "<i8"),
        ("arrival", "<i8"),
        ("rebuild_until", "<i8"),
        ("batch_end", "<i8"),
        ("chunks", "<u4"),
        ("done", "<u4"),
    ]
)
ENTRY_BYTES = PROGRESS_DTYPE.itemsize
NO_ARRIVAL = 0
"""Arrival before any record."""
UNKNOWN_ARRIVAL = 2**63 - 1
"""Arrival at an origin before which records were deleted and after which none has come yet."""


class PartitionCountError(RuntimeError):
    """The store knows another number of partitions than the reader was told."""


class BucketCountError(RuntimeError):
    """The store is kept in another number of buckets than the reader was told."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Progress of one partition of one topic.

    Attributes:
        incarnation: 16 bytes that name this life of the topic.
        origin: first offset that the store was built from.
        origin_arrival: arrival of the record at ``origin``, which no record before it exceeds;
            0 where nothing is missing before it, ``UNKNOWN_ARRIVAL`` until one has come.
        next: every record before this offset is applied.
        arrival: maximum record timestamp before ``next``, epoch ms.
        rebuild_until: while ``next`` is below this offset, values are being rebuilt.
        batch_end, chunks, done: the batch in progress ``[next, batch_end)``, cut into ``chunks``
            by entity, of which the first ``done`` are applied; zeros when none is.
    """

    incarnation: bytes
    origin: int
    origin_arrival: int
    next: int
    arrival: int
    rebuild_until: int
    batch_end: int = 0
    chunks: int = 0
    done: int = 0

    def pack(self) -> bytes:
        entry = np.zeros(1, PROGRESS_DTYPE)
        entry[0] = (
            self.incarnation,
            self.origin,
            self.origin_arrival,
            self.next,
            self.arrival,
            self.rebuild_until,
            self.batch_end,
            self.chunks,
            self.done,
        )
        return entry.tobytes()

    @classmethod
    def unpack(cls, data: bytes) -> Entry | None:
        """The entry in ``data`` (72 bytes), or None where it is absent."""
        if len(data) < ENTRY_BYTES or not any(data[:16]):
            return None
        # A view of S16 would strip trailing zero bytes of the incarnation: take the bytes.
        row = np.frombuffer(data, PROGRESS_DTYPE, 1)[0].tolist()
        return cls(data[:16], *row[1:])


def unpack_all(blob: bytes | None, topics: int, partitions: int) -> NDArray[Any]:
    """All entries, shape ``(topics, partitions)`` of :data:`PROGRESS_DTYPE`; absent ones zero.

    Raises:
        PartitionCountError: the store was written with another number of partitions.
    """
    size = topics * partitions * ENTRY_BYTES
    blob = blob or bytes(size)
    if len(blob) != size:
        raise PartitionCountError(
            f"redis: progress of {len(blob) // (ENTRY_BYTES * max(1, topics))} partitions a topic, "
            f"and this reader has {partitions}: give it the workers' kafka.partitions"
        )
    return np.frombuffer(blob, PROGRESS_DTYPE, topics * partitions).reshape(topics, partitions)
