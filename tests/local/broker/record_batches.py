"""Record batches as a producer would send them, written by aiokafka, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka.record import MemoryRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder

GZIP = 1


def batch(
    values: Sequence[bytes],
    timestamps_ms: Sequence[int] | None = None,
    *,
    key: bytes | None = None,
    compression: int = 0,
    producer: tuple[int, int, int] = (-1, -1, -1),
) -> bytes:
    """One batch; ``producer`` is (id, epoch, sequence)."""
    builder = DefaultRecordBatchBuilder(2, compression, False, *producer, 1 << 30)
    for at, value in enumerate(values):
        timestamp_ms = timestamps_ms[at] if timestamps_ms is not None else 1_700_000_000_000
        assert builder.append(at, timestamp_ms, key, value, []) is not None
    return bytes(builder.build())


def parsed(records: bytes) -> list[Any]:
    """The records of several batches."""
    batches = MemoryRecords(bytes(records))
    found: list[Any] = []
    while batches.has_next():
        one = batches.next_batch()
        assert one.validate_crc()
        found += list(one)
    return found
