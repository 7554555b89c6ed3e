"""Where a trainer goes on in the samples: what is saved, and how it follows from what was learnt.

Pure. A saved position depends on the rows learnt and on the log alone, so that a checkpoint made
again after a crash is the same one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import msgspec
import numpy as np

from tenuto.trainer.rows import Rows


class Position(msgspec.Struct, frozen=True):
    """Where to go on in one partition.

    Attributes:
        record: of the samples topic from which to read; 0 for files.
        snapshot: offset of the first snapshot that was not learnt; earlier rows are skipped.
    """

    record: int
    snapshot: int


class Positions:
    """The positions of what was learnt, partition by partition.

    Args:
        saved: those of a checkpoint.

    Attributes:
        now: the position of each partition of which a row was learnt.
    """

    def __init__(self, saved: Mapping[int, Position] | None = None) -> None:
        self.now = dict(saved or {})
        self._read: dict[int, deque[tuple[int, int]]] = {}

    def came(self, partition: int, record: int, last_snapshot: int) -> None:
        """A record gave rows up to a snapshot offset, all later than those of earlier records."""
        self._read.setdefault(partition, deque()).append((last_snapshot, record))

    def learnt(self, rows: Rows) -> None:
        """The next rows of the sequence were learnt, or set aside for good."""
        partitions, last = np.unique(rows.partition[::-1], return_index=True)
        offsets = rows.offset[::-1][last]
        for partition, offset in zip(partitions.tolist(), offsets.tolist(), strict=True):
            read = self._read[partition]
            while read[0][0] < offset:
                read.popleft()
            # The record of the last row learnt: those before it add nothing to what follows.
            self.now[partition] = Position(read[0][1], offset + 1)
