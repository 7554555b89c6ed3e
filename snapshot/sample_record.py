"""A samples record: whole snapshots' rows, or none, and the interval of the log they stand for.

The value is an Arrow IPC stream of one batch, empty for a progress record; everything that chains
records is in their headers, so that a start walks the chain without reading rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

_FROM, _TO, _ARRIVAL, _END = "from", "to", "arrival", "end"


@dataclass(frozen=True, slots=True)
class Interval:
    """What one samples record covers of its snapshots partition.

    Attributes:
        start, end: snapshot offsets ``[start, end)``; the next record starts at ``end``.
        arrival_ms: a time that every snapshot from ``end`` on arrived at or after.
        is_end: the end mark of a replay.
    """

    start: int
    end: int
    arrival_ms: int
    is_end: bool = False

    def headers(self) -> list[tuple[str, bytes]]:
        """As Kafka headers."""
        headers = [
            (_FROM, b"%d" % self.start),
            (_TO, b"%d" % self.end),
            (_ARRIVAL, b"%d" % self.arrival_ms),
        ]
        return [*headers, (_END, b"1")] if self.is_end else headers


def interval_of(headers: Iterable[tuple[str, bytes]]) -> Interval:
    """The interval that a record's headers name.

    Raises:
        ValueError: they do not name one: not a samples record.
    """
    found = dict(headers)
    try:
        start, end, arrival = (int(found[name]) for name in (_FROM, _TO, _ARRIVAL))
    except (KeyError, ValueError) as error:
        raise ValueError(f"not a samples record: headers {sorted(found)}") from error
    return Interval(start, end, arrival, found.get(_END) == b"1")


def encode_rows(batch: pa.RecordBatch) -> bytes:
    """A batch as the value of a samples record."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def decode_rows(value: bytes) -> pa.RecordBatch:
    """The batch in a samples record's value.

    Raises:
        pa.ArrowInvalid: it is not an Arrow stream.
    """
    with pa.ipc.open_stream(value) as reader:
        return reader.read_next_batch()
