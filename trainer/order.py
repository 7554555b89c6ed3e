"""The canonical order of samples: by second of the snapshot's arrival, partition, offset, item.

Pure. Pieces of partitions come in as they were read; rows go out once no partition can still give
one that belongs before them. So the sequence is a function of the samples, not of how they were
fetched (DESIGN §10).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from tenuto.trainer.rows import Rows, concat

SECOND_MS = 1000


class OrderError(ValueError):
    """Samples that break their partition's own promise of time; names the place."""


class Merge:
    """The samples of some partitions in one sequence.

    A second is closed once every partition's promised arrival lies beyond it, or its end mark was
    read; its rows are then in order and complete.

    Args:
        partitions: all that will ever give rows.

    Attributes:
        front_ms: rows that arrived before it have been given out, all of them.
    """

    def __init__(self, partitions: Iterable[int]) -> None:
        self._parts = {partition: _Part() for partition in sorted(partitions)}
        self.front_ms = 0
        if not self._parts:
            raise ValueError("a merge of no partitions")

    @property
    def ended(self) -> bool:
        """Whether every partition's end mark was read."""
        return all(part.ended for part in self._parts.values())

    @property
    def end_ms(self) -> int:
        """The latest arrival that any partition has told of."""
        return max(part.arrival_ms for part in self._parts.values())

    @property
    def holds_up(self) -> int:
        """The partition that everyone waits for."""
        return min(self._parts, key=lambda partition: self._parts[partition].closes_ms)

    @property
    def waiting(self) -> int:
        """Rows that came and were not given out."""
        return sum(part.count for part in self._parts.values())

    def ahead(self, most: int) -> set[int]:
        """Partitions with more than ``most`` rows waiting for others: not to be read for now."""
        first_ms = min(part.closes_ms for part in self._parts.values())
        return {
            partition
            for partition, part in self._parts.items()
            if part.ended or (part.count > most and part.closes_ms > first_ms)
        }

    def add(
        self,
        partition: int,
        rows: Rows | None,
        arrival_ms: int,
        *,
        ended: bool = False,
        place: str = "",
    ) -> None:
        """Take in what a partition goes on with.

        Args:
            partition: of the samples topic and of the snapshots'.
            rows: those not given before, if any.
            arrival_ms: whatever follows arrived at or after it.
            ended: whether its end mark was read: nothing follows.
            place: where it was read, for errors.

        Raises:
            OrderError: a row arrived before what the partition had promised.
        """
        part = self._parts[partition]
        if rows is not None and len(rows):
            arrivals = rows.arrival_ms
            if arrivals[0] < part.arrival_ms or (arrivals[1:] < arrivals[:-1]).any():
                raise OrderError(
                    f"{place or f'partition {partition}'}: snapshot arrivals fall: "
                    f"{int(arrivals.min())} after {part.arrival_ms}: the samples are damaged"
                )
            part.rows.append(rows)
            part.count += len(rows)
        part.arrival_ms = max(part.arrival_ms, arrival_ms)
        part.ended = part.ended or ended

    def close(self) -> Rows | None:
        """The rows of all seconds that are closed by now and were not before, in order."""
        parts = self._parts.values()
        if self.ended:
            closes_ms = self.end_ms // SECOND_MS * SECOND_MS + SECOND_MS
        else:
            closes_ms = min(part.closes_ms for part in parts)
        if closes_ms <= self.front_ms:
            return None
        self.front_ms = closes_ms
        taken = [rows for part in parts for rows in part.take(closes_ms)]
        if not taken:
            return None
        rows = concat(taken)
        # Parts came by partition, each in the order of offsets: a stable sort keeps both.
        seconds = rows.arrival_ms // SECOND_MS
        if (seconds[1:] >= seconds[:-1]).all():
            return rows
        return rows.take(np.argsort(seconds, kind="stable"))


class _Part:
    """One partition: rows that wait, and what it has promised."""

    def __init__(self) -> None:
        self.rows: deque[Rows] = deque()
        self.count = 0
        self.arrival_ms = 0
        self.ended = False

    @property
    def closes_ms(self) -> int:
        """Every row before it is here."""
        if self.ended:
            return 1 << 62
        return self.arrival_ms // SECOND_MS * SECOND_MS

    def take(self, before_ms: int) -> Iterable[Rows]:
        """The rows that arrived before then; they wait no longer."""
        while self.rows and self.rows[0].arrival_ms[0] < before_ms:
            rows = self.rows.popleft()
            inside = int(np.searchsorted(rows.arrival_ms, before_ms))
            if inside < len(rows):
                self.rows.appendleft(rows.slice(inside, len(rows)))
                rows = rows.slice(0, inside)
            self.count -= len(rows)
            yield rows
