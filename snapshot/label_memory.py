"""The labels that wait for their snapshots: added by batch, found by request, dropped by time.

One :class:`LabelMemory` serves one sample stream and one partition. It knows which columns the
stream's labels need and keeps no others. It does not know what a label is worth: see ``join.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tenuto.features.events import Event
from tenuto.snapshot.label_needs import EventNeeds, needs_of
from tenuto.snapshot.labels import SampleStream
from tenuto.snapshot.segments import (
    OFFSET,
    POSITION,
    REQUEST_MET,
    ROW_MET,
    TS,
    UNMET,
    Column,
    Ints,
    LabelRows,
    Segment,
)
from tenuto.snapshot.string_hash import StringHash, hash64

# Batches wait together until they are worth a segment or are asked for.
PENDING_ROWS = 8_192
# Segments of one tier (FANOUT**tier rows and more) are merged FANOUT at a time, up to some two
# million rows: bigger ones would only lengthen a merge's pause and the stay of dead rows.
FANOUT = 8
MERGED_TIERS = 6
# Arrow strings end at 2 GiB an array.
MERGED_BYTES = 1 << 30


@dataclass(frozen=True)
class LabelBatch:
    """Accepted records of one event and one partition, in offset order.

    Args:
        event: the event's name.
        ts_ms: (n,) int64 event times; ``offsets``: (n,) int64 log offsets.
        positions: (n,) int32, −1 where the record has none.
        request_ids, item_ids: (n,) Arrow strings without nulls.
        fields: (n,) int64, bool or float64 columns, by field name; those that no label of the
            stream needs are ignored.

    Raises:
        ValueError: a column's length differs from that of ``ts_ms``.
    """

    event: str
    ts_ms: NDArray[np.int64]
    offsets: NDArray[np.int64]
    positions: NDArray[np.int32]
    request_ids: pa.Array
    item_ids: pa.Array
    fields: Mapping[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = {
            "offsets": self.offsets,
            "positions": self.positions,
            "request_ids": self.request_ids,
            "item_ids": self.item_ids,
            **self.fields,
        }
        for name, column in columns.items():
            if len(column) != len(self.ts_ms):
                raise ValueError(
                    f"batch of {self.event!r}: {name} has {len(column)} rows, "
                    f"ts_ms has {len(self.ts_ms)}"
                )

    def __len__(self) -> int:
        return len(self.ts_ms)

    @property
    def nbytes(self) -> int:
        """Bytes of its columns."""
        base = self.ts_ms.nbytes + self.offsets.nbytes + self.positions.nbytes
        strings = int(self.request_ids.nbytes + self.item_ids.nbytes)
        return base + strings + sum(column.nbytes for column in self.fields.values())


@dataclass(frozen=True)
class FoundLabels:
    """One event's rows that lie within reach of the snapshots asked for.

    ``snapshots`` (n,) are indices of those; ``columns`` hold the times, positions and what
    the labels need, (n,) each. A row is listed once for each snapshot of its request.
    """

    snapshots: Ints
    item_ids: pa.ChunkedArray
    columns: dict[str, Column]
    _sources: list[tuple[Segment, Ints]]

    def mark_shown(self, shown: NDArray[np.bool_]) -> None:
        """Remember the rows (n,) whose item their snapshot did show."""
        start = 0
        for segment, rows in self._sources:
            segment.mark(rows[shown[start : start + len(rows)]], ROW_MET)
            start += len(rows)


@dataclass(frozen=True)
class Dropped:
    """What an eviction dropped: rows in all, and by event those of no use to any sample.

    Both counts follow from the records and snapshots alone, not from when eviction ran.
    ``unmatched`` labels were in no snapshot's reach; ``not_shown`` ones were, but no such snapshot
    showed their item.
    """

    rows: int
    unmatched: dict[str, int]
    not_shown: dict[str, int]


class LabelMemory:
    """Waiting labels of one sample stream and one partition, in columns.

    Args:
        stream: its labels say which events and fields to keep.
        events: the events that the platform knows: those of them that imply an impression are
            kept too, for the time of impression.
        string_hash: finds candidates; a test may pass one that collides.

    Raises:
        ValueError: a label needs a field that cannot be kept in a column.
    """

    def __init__(
        self,
        stream: SampleStream,
        events: Iterable[Event],
        *,
        string_hash: StringHash = hash64,
    ) -> None:
        self.stream = stream
        self.needs = needs_of(stream, events)
        self._hash = string_hash
        self._segments: dict[str, list[Segment]] = {name: [] for name in self.needs}
        self._pending: dict[str, list[LabelBatch]] = {name: [] for name in self.needs}
        self._pending_rows = dict.fromkeys(self.needs, 0)
        self._before_ts = 0
        self._dropped_rows = 0
        self._unmatched = dict.fromkeys(self.needs, 0)
        self._not_shown = dict.fromkeys(self.needs, 0)

    @property
    def reach_ms(self) -> Mapping[str, int]:
        """By event: how long after its request a record of it can still matter.

        The events of this mapping are those to be read. A snapshot needs each of them read to
        arrival ``request_ts + reach + lateness`` only: reading further fills memory for nothing.
        """
        return MappingProxyType({name: needs.reach_ms for name, needs in self.needs.items()})

    @property
    def rows(self) -> int:
        """Rows held, those dropped late included."""
        segments = sum(len(segment) for tier in self._segments.values() for segment in tier)
        return segments + sum(len(batch) for tier in self._pending.values() for batch in tier)

    @property
    def nbytes(self) -> int:
        """Bytes held by columns and strings."""
        segments = sum(segment.nbytes for tier in self._segments.values() for segment in tier)
        return segments + sum(batch.nbytes for tier in self._pending.values() for batch in tier)

    def add(self, batch: LabelBatch) -> None:
        """Take one batch in.

        Raises:
            ValueError: the stream has no use for that event, or a needed field is not there.
        """
        needs = self.needs.get(batch.event)
        if needs is None:
            raise ValueError(
                f"sample stream {self.stream.name!r} does not read {batch.event!r}: "
                f"it reads {', '.join(self.needs)}"
            )
        for name in needs.fields:
            if name not in batch.fields:
                raise ValueError(f"batch of {batch.event!r}: field {name!r} is missing")
        if len(batch):
            self._pending[batch.event].append(batch)
            self._pending_rows[batch.event] += len(batch)
            if self._pending_rows[batch.event] >= PENDING_ROWS:
                self._flush(batch.event)

    def find(self, request_ids: pa.Array, request_ts_ms: Ints) -> dict[str, FoundLabels]:
        """Rows of the given requests from ``request_ts_ms`` to the event's reach after it.

        Every event of the stream has its entry, an empty one when nothing was found. The rows
        found are marked as having met a snapshot.
        """
        hashes = self._hash(request_ids)
        # Neighbouring needles share the cache lines of the haystack.
        order = np.argsort(hashes, kind="stable")
        hashes, request_ids = hashes[order], request_ids.take(pa.array(order))
        earliest, latest = (
            (int(request_ts_ms.min()), int(request_ts_ms.max())) if len(order) else (0, -1)
        )
        found = {}
        for event, needs in self.needs.items():
            self._flush(event)
            pieces = []
            for segment in self._segments[event]:
                if segment.max_ts < earliest or segment.min_ts > latest + needs.reach_ms:
                    continue
                asked, rows = segment.find(hashes, request_ids)
                asked = order[asked]
                age_ms = segment.columns[TS].take(rows) - request_ts_ms[asked]
                near = (age_ms >= 0) & (age_ms <= needs.reach_ms)
                if near.any():
                    segment.mark(rows[near], REQUEST_MET)
                    pieces.append((segment, rows[near], asked[near]))
            found[event] = _gather(pieces, needs)
        return found

    def evict(self, before_ts: int) -> Dropped:
        """Drop labels with ts < ``before_ts``: no snapshot still to come may be older than it.

        A segment goes when all of its rows may go, and is rewritten when half of them may, so
        rows can stay a while longer than asked; they are reported when they go.
        """
        self._before_ts = max(self._before_ts, before_ts)
        for event, segments in self._segments.items():
            self._flush(event)
            dying = [segment for segment in segments if segment.median_ts < self._before_ts]
            if dying:
                segments[:] = [segment for segment in segments if segment not in dying]
                for segment in dying:
                    self._settle(event, LabelRows.of([segment]))
        dropped = Dropped(
            self._dropped_rows,
            {event: count for event, count in self._unmatched.items() if count},
            {event: count for event, count in self._not_shown.items() if count},
        )
        self._dropped_rows = 0
        self._unmatched = dict.fromkeys(self.needs, 0)
        self._not_shown = dict.fromkeys(self.needs, 0)
        return dropped

    def _flush(self, event: str) -> None:
        batches, needs = self._pending[event], self.needs[event]
        if not batches:
            return
        columns: dict[str, Column] = {
            TS: np.concatenate([batch.ts_ms for batch in batches]),
            POSITION: np.concatenate([batch.positions for batch in batches]).astype(np.int64),
        }
        for name in needs.fields:
            columns[name] = np.concatenate([batch.fields[name] for batch in batches])
        if needs.offset:
            columns[OFFSET] = np.concatenate([batch.offsets for batch in batches])
        rows = LabelRows.coded(
            [batch.request_ids for batch in batches],
            [batch.item_ids for batch in batches],
            columns,
            self._hash,
        )
        batches.clear()
        self._pending_rows[event] = 0
        self._settle(event, rows)
        self._merge(event)

    def _merge(self, event: str) -> None:
        """Merge each tier that is full, from the smallest up."""
        segments = self._segments[event]
        for tier in range(MERGED_TIERS):
            peers = [segment for segment in segments if _tier(segment) == tier]
            if len(peers) >= FANOUT and sum(peer.nbytes for peer in peers) <= MERGED_BYTES:
                segments[:] = [segment for segment in segments if segment not in peers]
                self._settle(event, LabelRows.of(peers))

    def _settle(self, event: str, rows: LabelRows) -> None:
        """Make a segment of the rows that are still of use, and account for the others."""
        dead = rows.columns[TS] < self._before_ts
        if dead.any():
            marks = rows.marks[dead]
            self._dropped_rows += len(marks)
            self._unmatched[event] += int(np.count_nonzero(marks == UNMET))
            self._not_shown[event] += int(np.count_nonzero(marks == REQUEST_MET))
            if dead.all():
                return
            rows = rows.where(~dead)
        self._segments[event].append(Segment(rows))


def _tier(segment: Segment) -> int:
    """The whole part of log(rows) to the base FANOUT."""
    return (len(segment).bit_length() - 1) // (FANOUT.bit_length() - 1)


def _gather(pieces: list[tuple[Segment, Ints, Ints]], needs: EventNeeds) -> FoundLabels:
    names = (TS, POSITION, *needs.fields, *((OFFSET,) if needs.offset else ()))
    if not pieces:
        none = np.zeros(0, dtype=np.int64)
        empty: dict[str, Column] = dict.fromkeys(names, none)
        return FoundLabels(none, pa.chunked_array([], type=pa.string()), empty, [])
    items = [
        segment.item_table.take(pa.array(segment.items.take(rows))) for segment, rows, _ in pieces
    ]
    return FoundLabels(
        np.concatenate([asked for _, _, asked in pieces]),
        pa.chunked_array(items),
        {
            name: np.concatenate([segment.columns[name].take(rows) for segment, rows, _ in pieces])
            for name in names
        },
        [(segment, rows) for segment, rows, _ in pieces],
    )
