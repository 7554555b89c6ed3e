"""Cutting one partition's samples into chunks, each of which becomes Parquet files.

Pure. Cuts follow snapshot offsets and arrivals, never the samples records that rows came in, so
that chunks are a function of the snapshots' log however the joiner was restarted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Cut:
    """The end of a chunk; the rows since the last one are its own.

    Attributes:
        start, end: snapshot offsets ``[start, end)``.
        arrival_ms: of its last row; of the partition at the end mark.
        is_end: whether the end mark closed it: it may have no rows then.
    """

    start: int
    end: int
    arrival_ms: int
    is_end: bool


class Chunker:
    """Where one partition's chunks end.

    A chunk ends at the first of ``size`` snapshot offsets (of the next so many where these had no
    row), a snapshot that arrived in another UTC hour, or the end mark.

    Args:
        start: snapshot offset of the first chunk.
        size: snapshot offsets of a chunk, ≥ 1.

    Attributes:
        start: snapshot offset at which the chunk at hand starts.
    """

    def __init__(self, start: int, size: int) -> None:
        if size < 1:
            raise ValueError(f"chunk of {size} snapshot offsets: must be ≥ 1")
        self.start = start
        self._size = size
        self._limit: int | None = None
        self._hour = 0
        self._arrival_ms = 0

    def take(
        self, rows: pa.RecordBatch | None, end: int, arrival_ms: int, *, is_end: bool
    ) -> Iterator[pa.RecordBatch | Cut]:
        """Cut up what follows: rows of one chunk, its cut, rows of the next one.

        Args:
            rows: from where the last call ended, in the order of snapshot offsets.
            end: snapshot offset that the partition has been read to with them.
            arrival_ms: of the partition there.
            is_end: whether its end mark is there.
        """
        if rows is not None and rows.num_rows:
            yield from self._rows(rows)
        # At ``end == limit`` the end mark may still follow and close this very chunk.
        if self._limit is not None and end > self._limit:
            yield self._cut(self._limit, self._arrival_ms)
        if is_end:
            yield self._cut(end, arrival_ms, is_end=True)

    def _rows(self, rows: pa.RecordBatch) -> Iterator[pa.RecordBatch | Cut]:
        offsets = rows.column("snapshot_offset").to_numpy()
        arrivals = rows.column("snapshot_arrival_ms").to_numpy()
        hours = arrivals // HOUR_MS
        first, count = 0, len(offsets)
        while first < count:
            if self._limit is None:
                full = (int(offsets[first]) - self.start) // self._size
                self._limit = self.start + (full + 1) * self._size
                self._hour = int(hours[first])
            stop = int(offsets.searchsorted(self._limit))
            other_hour = (hours[first:stop] != self._hour).nonzero()[0]
            if len(other_hour):
                stop = first + int(other_hour[0])
            if stop > first:
                yield rows.slice(first, stop - first)
                self._arrival_ms = int(arrivals[stop - 1])
            if stop < count:
                yield self._cut(min(self._limit, int(offsets[stop])), self._arrival_ms)
            first = stop

    def _cut(self, end: int, arrival_ms: int, *, is_end: bool = False) -> Cut:
        cut = Cut(self.start, end, arrival_ms, is_end)
        self.start, self._limit = end, None
        return cut
