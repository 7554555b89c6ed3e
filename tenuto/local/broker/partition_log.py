"""One partition's log: batches of bytes in offset order, found by bisection.

Offsets lie in ``[start, end)``: the log start offset, which deletion and retention move, and the
log end offset, which is the high watermark, too: there are no replicas. Nothing here knows
topics, settings or the time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate

from tenuto.local.broker.batch import max_timestamp, place
from tenuto.local.broker.records import records


class PartitionLog:
    """An append-only list of record batches that forgets from its front.

    Attributes:
        start: log start offset: the first one that may be read.
        end: log end offset: the next record's.
    """

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self._batches: list[bytearray] = []
        # Beside each batch: its first offset; bytes ever appended up to and with it; the largest
        # timestamp up to and with it. All three never fall, so each question is a bisection.
        self._bases: list[int] = []
        self._byte_ends: list[int] = []
        self._newest_ms: list[int] = []
        self._byte_start = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of the batches that are kept."""
        return self._byte_ends[-1] - self._byte_start if self._byte_ends else 0

    def append(self, batch: bytearray, records_count: int, max_timestamp_ms: int) -> int:
        """Take a batch over (its first bytes are rewritten); returns its base offset."""
        base = self.end
        place(batch, base)
        newest = self._newest_ms
        before_ms = newest[-1] if newest else max_timestamp_ms
        end = self._byte_ends[-1] if self._byte_ends else self._byte_start
        self._batches.append(batch)
        self._bases.append(base)
        self._byte_ends.append(end + len(batch))
        newest.append(max_timestamp_ms if max_timestamp_ms > before_ms else before_ms)
        self.end = base + records_count
        return base

    def read(self, offset: int, max_bytes: int, *, at_least_one: bool) -> list[bytearray]:
        """Whole batches from the one that holds ``offset`` on, ``max_bytes`` of them at most.

        ``at_least_one`` returns the first batch even if it is larger.
        """
        if offset >= self.end:
            return []
        first = bisect_right(self._bases, offset) - 1
        limit = self._bytes_before(first) + max_bytes
        stop = bisect_right(self._byte_ends, limit, first)
        return self._batches[first : max(stop, first + at_least_one)]

    def bytes_from(self, offset: int) -> int:
        """Bytes that a read at ``offset`` without a limit would return."""
        if offset >= self.end:
            return 0
        return self._byte_ends[-1] - self._bytes_before(bisect_right(self._bases, offset) - 1)

    def first_since(self, timestamp_ms: int) -> tuple[int, int] | None:
        """Offset and timestamp of the first record that is not older; None without one.

        Raises:
            RefusedError: the batch that holds it is compressed by a codec that is not installed.
        """
        # A batch that was cut by a deletion may hold the timestamp before the log's start only.
        for batch in self._batches[bisect_left(self._newest_ms, timestamp_ms) :]:
            for record in records(batch):
                if record.timestamp_ms >= timestamp_ms and record.offset >= self.start:
                    return record.offset, record.timestamp_ms
        return None

    def newest(self) -> tuple[int, int] | None:
        """Offset and timestamp of the first record with the largest timestamp; None if empty.

        Raises:
            RefusedError: as ``first_since``.
        """
        if not self._batches or self.start == self.end:
            return None
        found = self.first_since(self._newest_ms[-1])
        if found is None:
            # It lay before the log's start, in the first batch, which is kept whole.
            first, *others = self._batches
            left = [one.timestamp_ms for one in records(first) if one.offset >= self.start]
            found = self.first_since(max([*left, *map(max_timestamp, others)]))
        return found

    def delete_before(self, offset: int) -> None:
        """Move the log's start up to ``offset`` and drop the batches that end before it."""
        self.start = max(self.start, min(offset, self.end))
        if self.start == self.end:
            self._drop(len(self._batches))
        else:
            self._drop(bisect_right(self._bases, self.start) - 1)

    def expire(self, before_ms: int) -> None:
        """Drop batches from the front whose records are all older than ``before_ms``."""
        self._retain_from(bisect_left(self._newest_ms, before_ms))

    def shrink(self, keep_bytes: int) -> None:
        """Drop batches from the front while at least ``keep_bytes`` remain."""
        if self._byte_ends:
            self._retain_from(bisect_right(self._byte_ends, self._byte_ends[-1] - keep_bytes))

    def _retain_from(self, index: int) -> None:
        if index:
            self.delete_before(self._bases[index] if index < len(self._bases) else self.end)

    def _drop(self, count: int) -> None:
        if not count:
            return
        self._byte_start = self._byte_ends[count - 1]
        dropped_ms = self._newest_ms[count - 1]
        del self._batches[:count], self._bases[:count], self._byte_ends[:count]
        del self._newest_ms[:count]
        # What remains is as new as what went only if that was newer: then it counts no more.
        if self._newest_ms and self._newest_ms[0] == dropped_ms:
            self._newest_ms = list(accumulate(map(max_timestamp, self._batches), max))

    def _bytes_before(self, index: int) -> int:
        return self._byte_ends[index - 1] if index else self._byte_start
