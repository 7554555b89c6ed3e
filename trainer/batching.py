"""Mini-batches: the canonical sequence cut by row count, rounded up to whole requests.

Pure. Where a batch ends depends on the rows before it and on nothing else: not on polls, clocks
or checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tenuto.trainer.rows import Rows, concat


class Batcher:
    """Cuts rows into batches of at least ``size`` rows that end with a request.

    All rows count, seen by the user or not, so that a batch is bounded whatever is seen.

    Args:
        size: rows, ≥ 1; a batch is longer only by the rest of its last request.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"batches of {size} rows: must be ≥ 1")
        self._size = size
        self._waiting: list[Rows] = []
        self._count = 0

    @property
    def waiting(self) -> int:
        """Rows that no batch has yet."""
        return self._count

    def add(self, rows: Rows) -> Iterator[Rows]:
        """The batches that these rows complete; they hold whole requests and follow the last.

        A batch is taken when it is given out: iterate to the end.
        """
        ends = _request_ends(rows)
        start = 0
        while True:
            index = int(np.searchsorted(ends, start + self._size - self._count))
            if index == len(ends):
                break
            stop = int(ends[index])
            batch = concat([*self._waiting, rows.slice(start, stop)])
            self._waiting, self._count, start = [], 0, stop
            yield batch
        if start < len(rows):
            self._waiting.append(rows.slice(start, len(rows)))
            self._count += len(rows) - start

    def flush(self) -> Rows | None:
        """The rows that no batch has yet, as a short one."""
        if not self._count:
            return None
        batch = concat(self._waiting)
        self._waiting, self._count = [], 0
        return batch


def _request_ends(rows: Rows) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The row after the last one of each request."""
    if not len(rows):
        return np.zeros(0, np.int64)
    other = (rows.offset[1:] != rows.offset[:-1]) | (rows.partition[1:] != rows.partition[:-1])
    return np.append(other.nonzero()[0] + 1, len(rows))
