"""Reading the samples of one partition exactly once: each record's interval against what was read.

A joiner that was replaced writes on for a moment, and its successor repeats what was in flight; so
records overlap, and only those that go on from where the reader stands count. Pure: where records
come from and rows go to is the reader's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from tenuto.snapshot.sample_record import Interval


class Kind(StrEnum):
    """What a record is to a reader that has read up to some snapshot offset."""

    NEW = "new"
    """It goes on from there: its rows from there on, if any, are to be taken."""
    OLD = "old"
    """It says nothing that was not read before."""
    GAP = "gap"
    """It starts beyond: something is missing before it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ``Chain.take`` says of a record.

    Attributes:
        kind: whether it counts.
        since: snapshot offset from which rows of a new record were not read before.
    """

    kind: Kind
    since: int


class Chain:
    """How far one partition's samples have been read.

    Args:
        start: snapshot offset to go on from; None to begin where the first record does.

    Attributes:
        position: snapshot offset up to which rows were taken; None before the first record.
        arrival_ms: what is still to come arrived at or after it, as far as records have told.
        ended: whether the end mark was read; nothing after it counts.
        gaps: how many records were left out because something was missing before them.
    """

    def __init__(self, start: int | None = None, *, arrival_ms: int = 0) -> None:
        self.position = start
        self.arrival_ms = arrival_ms
        self.ended = False
        self.gaps = 0

    def take(self, interval: Interval) -> Verdict:
        """Judge the next record of the samples partition, and move on if it counts.

        A record without rows moves the chain like any other. One that reaches no further counts
        only if it tells a later arrival or the end.
        """
        since = interval.start if self.position is None else self.position
        if self.ended or interval.end < since:
            return Verdict(Kind.OLD, since)
        if interval.start > since:
            self.gaps += 1
            return Verdict(Kind.GAP, since)
        moves = self.position is None or interval.end > since
        if not (moves or interval.is_end or interval.arrival_ms > self.arrival_ms):
            return Verdict(Kind.OLD, since)
        self.position = interval.end
        self.arrival_ms = max(self.arrival_ms, interval.arrival_ms)
        self.ended = interval.is_end
        return Verdict(Kind.NEW, since)


def new_rows(rows: pa.RecordBatch, interval: Interval, since: int) -> pa.RecordBatch:
    """The rows of a record's batch from snapshot offset ``since`` on.

    Raises:
        ValueError: its rows do not lie in its interval, in the order of snapshot offsets.
    """
    column = rows.column("snapshot_offset")
    if column.null_count:
        raise ValueError("snapshot_offset: must not be null")
    offsets = column.to_numpy()
    if len(offsets) == 0:
        return rows
    if (offsets[1:] < offsets[:-1]).any():
        raise ValueError("snapshot_offset: must not fall from row to row")
    if offsets[0] < interval.start or offsets[-1] >= interval.end:
        raise ValueError(
            f"snapshot_offset: {offsets[0]} to {offsets[-1]}: must lie in the record's interval "
            f"[{interval.start}, {interval.end})"
        )
    first = int(offsets.searchsorted(since))
    return rows.slice(first) if first else rows
