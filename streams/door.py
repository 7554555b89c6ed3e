"""The door of the event streams: which records of a batch count, and why the others do not.

Pure: the verdict on a record follows from the record and from the arrival before it, so a replay
judges the same however its batches are cut. Where refused records go is in
``tenuto.streams.dead_letters``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tenuto.features.progress import NO_ARRIVAL
from tenuto.features.rules import TimeRules
from tenuto.streams.codec import Column, Columns, EventCodec, Fault
from tenuto.streams.heartbeats import is_end, is_heartbeat
from tenuto.streams.partitions import partition_of
from tenuto.streams.refusals import Reason, Refusal, reason_text, shown

MAX_RECORD_BYTES = 1_000_000


class Records(Protocol):
    """One partition's consecutive records as columns; ``tenuto.streams.batches.Batch`` is one."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offsets(self) -> NDArray[np.int64]: ...
    @property
    def timestamps_ms(self) -> NDArray[np.int64]: ...
    @property
    def keys(self) -> Sequence[bytes | None]: ...
    @property
    def values(self) -> Sequence[bytes | None]: ...
    @property
    def headers(self) -> Sequence[Sequence[tuple[str, bytes]]]: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What a record must satisfy besides its declaration; the same for every process.

    ``max_record_bytes`` bounds the value. Of ``rules`` the door uses ``future_ms`` and
    ``lateness_ms``.
    """

    n_partitions: int
    rules: TimeRules = field(default_factory=TimeRules)
    max_record_bytes: int = MAX_RECORD_BYTES


@dataclass(frozen=True, slots=True, eq=False)
class Accepted:
    """What of a batch counts, and what was refused.

    Attributes:
        columns: the event's fields by name: list[str] for strings, (accepted,) int64, float64 or
            bool arrays for the rest; a missing position is −1.
        offsets, timestamps_ms, arrivals: (accepted,) int64. An arrival is the maximum record
            timestamp of the partition up to that record.
        refused: in offset order.
        heartbeats: how many records were heartbeats; they have moved arrival and nothing else.
        ended: whether one of them was a replay's end mark.
        arrival_after: of the last record, whatever it was.
    """

    columns: Columns
    offsets: NDArray[np.int64]
    timestamps_ms: NDArray[np.int64]
    arrivals: NDArray[np.int64]
    refused: list[Refusal]
    heartbeats: int
    ended: bool
    arrival_after: int

    def __len__(self) -> int:
        return len(self.offsets)


def judge(
    codec: EventCodec, limits: Limits, records: Records, arrival_before: int = NO_ARRIVAL
) -> Accepted:
    """Judge one batch of one partition.

    ``judge`` of a batch is ``judge`` of its parts one after the other, each with the
    ``arrival_after`` of the part before it.
    """
    arrivals = running_arrival(records.timestamps_ms, arrival_before)
    bodies = _bodies(records, limits.max_record_bytes)
    decoded = codec.decode(bodies.values)
    inside, faults = bodies.inside, bodies.faults
    if decoded.faults:
        faults += [(int(inside[at]), fault) for at, fault in decoded.faults.items()]
        inside = np.delete(inside, list(decoded.faults))
    columns = codec.columns(decoded.rows)
    own_arrivals = arrivals[inside] if len(inside) < len(arrivals) else arrivals
    counts = _standing(columns, own_arrivals, records.partition, limits, inside, faults)
    if counts is not None:
        columns = {name: _where(column, counts) for name, column in columns.items()}
        inside, own_arrivals = inside[counts], own_arrivals[counts]
    everything = len(inside) == len(arrivals)
    return Accepted(
        columns=columns,
        offsets=records.offsets if everything else records.offsets[inside],
        timestamps_ms=records.timestamps_ms if everything else records.timestamps_ms[inside],
        arrivals=own_arrivals,
        refused=[_refusal(records, at, fault) for at, fault in sorted(faults)],
        heartbeats=bodies.heartbeats,
        ended=bodies.ended,
        arrival_after=int(arrivals[-1]) if len(arrivals) else arrival_before,
    )


def running_arrival(timestamps_ms: NDArray[np.int64], arrival_before: int) -> NDArray[np.int64]:
    """Arrival at each record, (records,) int64: the maximum timestamp so far, of any record."""
    arrivals = np.maximum.accumulate(timestamps_ms)
    np.maximum(arrivals, arrival_before, out=arrivals)
    return arrivals


@dataclass(slots=True, eq=False)
class _Bodies:
    """The values worth decoding and their indices; the faults of the others."""

    values: Sequence[bytes]
    inside: NDArray[np.int64]
    faults: list[tuple[int, Fault]]
    heartbeats: int = 0
    ended: bool = False


def _bodies(records: Records, max_record_bytes: int) -> _Bodies:
    # The usual batch, without heartbeats, is decoded as it is.
    if all(records.values):
        values = cast("Sequence[bytes]", records.values)
        if max(map(len, values), default=0) <= max_record_bytes:
            return _Bodies(values, np.arange(len(values)), [])
    kept: list[bytes] = []
    inside: list[int] = []
    bodies = _Bodies(kept, np.empty(0, dtype=np.int64), [])
    for at, value in enumerate(records.values):
        if not value:
            if is_heartbeat(value, records.headers[at]):
                bodies.heartbeats += 1
                bodies.ended = bodies.ended or is_end(records.headers[at])
                continue
            fault = Fault(Reason.EMPTY, "record", "(empty)", "must be a JSON object")
        elif len(value) > max_record_bytes:
            rule = f"must have at most {max_record_bytes} bytes (has {len(value)})"
            fault = Fault(Reason.OVERSIZED, "record", shown(value), rule)
        else:
            kept.append(value)
            inside.append(at)
            continue
        bodies.faults.append((at, fault))
    bodies.inside = np.array(inside, dtype=np.int64)
    return bodies


def _standing(
    columns: Columns,
    arrivals: NDArray[np.int64],
    partition: int,
    limits: Limits,
    inside: NDArray[np.int64],
    faults: list[tuple[int, Fault]],
) -> NDArray[np.bool_] | None:
    """Which rows are in their partition and in time, None for all; adds the others' faults."""
    ids, ts = columns["request_id"], columns["ts"]
    assert isinstance(ids, list)
    assert isinstance(ts, np.ndarray)
    homes = partition_of(ids, limits.n_partitions)
    ages = arrivals - ts
    rules = limits.rules
    counts: NDArray[np.bool_] = homes == partition
    counts &= ages <= rules.lateness_ms
    counts &= ages >= -rules.future_ms
    if counts.all():
        return None
    for row in np.flatnonzero(~counts).tolist():
        age, home = int(ages[row]), int(homes[row])
        if home != partition:
            fault = Fault(
                Reason.MISPLACED,
                "request_id",
                shown(ids[row]),
                f"must be in partition {home} of {limits.n_partitions} (murmur2 of the request_id)",
            )
        elif age > rules.lateness_ms:
            rule = f"must be at most {rules.lateness_ms} ms before its arrival (is {age})"
            fault = Fault(Reason.LATE, "ts", str(ts[row]), rule)
        else:
            rule = f"must be at most {rules.future_ms} ms after its arrival (is {-age})"
            fault = Fault(Reason.FUTURE, "ts", str(ts[row]), rule)
        faults.append((int(inside[row]), fault))
    return counts


def _where(column: Column, counts: NDArray[np.bool_]) -> Column:
    if isinstance(column, list):
        return list(compress(column, counts.tolist()))
    return column[counts]


def _refusal(records: Records, at: int, fault: Fault) -> Refusal:
    topic, partition, offset = records.topic, records.partition, int(records.offsets[at])
    return Refusal(
        topic=topic,
        partition=partition,
        offset=offset,
        reason=fault.reason,
        text=reason_text(
            fault.subject,
            fault.value,
            fault.rule,
            topic=topic,
            partition=partition,
            offset=offset,
        ),
        value=records.values[at],
        key=records.keys[at],
        timestamp_ms=int(records.timestamps_ms[at]),
    )
