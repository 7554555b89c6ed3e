"""What whole-batch delivery hands to an agent, a ``Batch``, and where it starts, ``Positions``.

Values only. How batches come out of Faust's consumer is in ``tenuto.streams.transport``; how a
worker is built and run is in ``tenuto.streams.worker``. Nothing here decodes a record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Headers = Sequence[tuple[str, bytes]]


class TP(NamedTuple):
    """A partition of a topic; equal to, and hashed like, Faust's ``TP`` and aiokafka's."""

    topic: str
    partition: int


class LogTruncatedError(RuntimeError):
    """The log ends before the position that was read up to: it was truncated, or it is another."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Batch:
    """One partition's consecutive records, and the interval of the log that they stand for.

    The interval is ``[start, end)``: ``start`` is the position that was asked for, ``end`` the
    position after the fetch. Within one ``generation`` the next batch starts where this one ends,
    so that progress by intervals has no hole, whatever transaction markers, compaction or
    retention have left out: ``end`` may lie beyond the last record, and a batch may have no record
    at all (a transaction's marker moves the position as well).

    Attributes:
        generation: which seek this was read after; ``Delivery.is_current`` judges it.
        missed: offsets at the front of the interval that retention deleted before they were read.
        log_end: where the log ended when this was fetched; ``log_end - end`` is the lag.
        offsets: (records,) int64.
        timestamps_ms: (records,) int64, the records' own Kafka timestamps.
        keys, values: the raw bytes; decoding is the agent's business.
        headers: one sequence of (name, value) pairs per record.
    """

    topic: str
    partition: int
    start: int
    end: int
    generation: int
    missed: int
    log_end: int
    offsets: npt.NDArray[np.int64]
    timestamps_ms: npt.NDArray[np.int64]
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers]

    @property
    def tp(self) -> TP:
        return TP(self.topic, self.partition)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return sum([len(value) for value in self.values if value is not None])

    def __len__(self) -> int:
        return len(self.values)

    def __bool__(self) -> bool:
        # A batch without a record still moves progress: `if batch` must not hide it.
        return True

    def __repr__(self) -> str:
        return (
            f"<Batch {self.topic}[{self.partition}] [{self.start}, {self.end}) "
            f"records={len(self)} generation={self.generation}>"
        )


class Positions(Protocol):
    """Where the application stands in the log: what it has made durable, not what Kafka heard."""

    async def start_positions(self, partitions: set[TP]) -> Mapping[TP, int]:
        """The offsets to read ``partitions`` from.

        Called on each assignment, with all partitions held from then on, and after each stopped
        flow; it must answer within the broker's request timeout. A partition left out starts at
        its committed offset, or at the log's start where there is none. Raising crashes the worker.
        """
        ...

    async def on_revoked(self, partitions: set[TP]) -> None:
        """Forget ``partitions``: the batch in hand is done or was waited for in vain."""
        ...


class Committed:
    """Positions of an application that keeps none: Kafka's committed offsets decide."""

    async def start_positions(self, partitions: set[TP]) -> Mapping[TP, int]:
        return {}

    async def on_revoked(self, partitions: set[TP]) -> None:
        pass


class Delivery(Protocol):
    """What an agent may ask of the consumer that feeds it."""

    def is_current(self, batch: Batch) -> bool:
        """Whether no seek and no rebalance has overtaken ``batch``: an agent skips one that isn't.

        Skipping (``continue``) loses nothing: the partition is being read again from the position
        that was sought, or by the worker that has it now.
        """
        ...

    async def seek(self, tp: tuple[str, int], offset: int) -> None:
        """Read ``tp`` from ``offset`` on, back or forward, from within an agent or outside one.

        Batches already on their way become out of date (``is_current``); the first one after
        starts at ``offset``. A partition that this worker no longer holds is left alone.
        """
        ...

    def pause(self, partitions: set[TP]) -> None:
        """Fetch no more of ``partitions``; what is already on its way still arrives.

        An assignment resumes all.
        """
        ...

    def resume(self, partitions: set[TP]) -> None:
        """Fetch ``partitions`` again."""
        ...
