"""A samples record: whole snapshots' rows, or none, and the interval of the log they stand for.

The value is an Arrow IPC stream of one batch, empty for a progress record; everything that chains
records is in their headers, so that a start walks the chain without reading rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from tenuto.snapshot.sample_types import is_compressed, schema_fault

_FROM, _TO, _ARRIVAL, _END, _LIFE = "from", "to", "arrival", "end", "life"
_MOST = 2**63 - 1


class DamagedRowsError(ValueError):
    """The value of a samples record that is no rows; says why."""


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

    def headers(self, life: bytes = b"") -> list[tuple[str, bytes]]:
        """As Kafka headers; ``life`` are the 16 bytes that name the samples topic's life."""
        headers = [
            (_FROM, b"%d" % self.start),
            (_TO, b"%d" % self.end),
            (_ARRIVAL, b"%d" % self.arrival_ms),
        ]
        headers += [(_LIFE, life)] if life else []
        return [*headers, (_END, b"1")] if self.is_end else headers


def interval_of(headers: Iterable[tuple[str, bytes]], life: bytes = b"") -> Interval:
    """The interval that a record's headers name.

    A record that was on its way while the topic was deleted and made anew can arrive in the new
    one, where it stands for other snapshots: with the topic's ``life`` it is told apart.

    Raises:
        ValueError: they do not name one: not a samples record, or not one of this topic.
    """
    found = dict(headers)
    if life and found.get(_LIFE, life) != life:
        raise ValueError("not a samples record of this topic: it was written to an earlier one")
    try:
        start, end, arrival = (int(found[name]) for name in (_FROM, _TO, _ARRIVAL))
    except (KeyError, TypeError, ValueError) as error:
        # A header may also be there without a value.
        raise ValueError(f"not a samples record: headers {sorted(found)}") from error
    if not (0 <= start <= end <= _MOST and abs(arrival) <= _MOST):
        raise ValueError(f"not a samples record: from {start} to {end}, arrival {arrival}")
    return Interval(start, end, arrival, found.get(_END) == b"1")


def encode_rows(batch: pa.RecordBatch) -> bytes:
    """A batch as the value of a samples record."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def decode_rows(value: bytes) -> pa.RecordBatch:
    """The batch in a samples record's value, checked: no byte of it reaches beyond its buffers.

    Raises:
        DamagedRowsError: it is not an Arrow stream of sample rows.
    """
    try:
        messages = pa.ipc.MessageReader.open_stream(value)
        schema = pa.ipc.read_schema(_of_type(messages.read_next_message(), "schema"))
        fault = schema_fault(schema)
        if fault:
            raise DamagedRowsError(fault)
        message = _of_type(messages.read_next_message(), "record batch")
        if is_compressed(message.metadata.to_pybytes()):
            raise DamagedRowsError("its rows are compressed: joiners write none such")
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except (pa.ArrowException, OSError, EOFError, StopIteration) as error:
        raise DamagedRowsError(f"not an Arrow stream: {error or 'it is cut off'}") from error
    return batch


def _of_type(message: pa.Message, wanted: str) -> pa.Message:
    """The message, if it says that it is one of these.

    Arrow verifies the table that a message says it holds, and ``read_schema`` then takes whatever
    is there for a schema: of another, unverified kind it would follow any pointer.

    Raises:
        DamagedRowsError: it is another.
    """
    if message.type != wanted:
        raise DamagedRowsError(f"a message of type {message.type!r}: must be a {wanted}")
    return message
