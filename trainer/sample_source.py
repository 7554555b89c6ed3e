"""Where a trainer's samples come from, piece by piece; a topic or a sink's directory.

A source gives each row once, and every partition in the order of snapshot offsets; bringing
partitions into one order is the merge's (``order.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True)
class Read:
    """What was read next of one partition.

    Attributes:
        partition: of the samples topic and of the snapshots'.
        rows: those not read before, if any.
        arrival_ms: whatever follows arrived at or after it.
        is_end: whether anything follows.
        record: of the samples topic; 0 for files.
        place: for errors.
    """

    partition: int
    rows: pa.RecordBatch | None
    arrival_ms: int
    is_end: bool
    record: int
    place: str


class SampleSource(Protocol):
    """Samples as a trainer reads them."""

    @property
    def partitions(self) -> Sequence[int]:
        """All that there are."""
        ...

    def poll(self, ahead: Collection[int]) -> list[Read]:
        """What comes next, of partitions that are not ``ahead``; nothing after a short wait.

        Raises:
            SampleTopicError, SampleFilesError: samples cannot be read; names the place.
        """
        ...

    @property
    def exhausted(self) -> bool:
        """Whether nothing more will come, though there may be no end mark: files have an end."""
        ...

    def lag(self) -> dict[int, int]:
        """Records of each partition that are there and were not read, as far as is known."""
        ...

    @property
    def missed(self) -> int:
        """Snapshot offsets whose samples were deleted before they were read, since the start."""
        ...

    @property
    def gaps(self) -> int:
        """Records left out because something is missing before them, since the start."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...
