"""One partition's delay line: labels wait in memory, snapshots wait until they are final.

Pure: records come in, with the arrivals that they were read to; samples go out in the order of
snapshot offsets, when no label that counts can still come. Where records come from and samples go
to is the joiner's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
from msgspec import structs

from tenuto.features.events import Event
from tenuto.features.rules import TimeRules
from tenuto.snapshot.join import join
from tenuto.snapshot.label_memory import Dropped, LabelBatch, LabelMemory
from tenuto.snapshot.labels import SampleStream
from tenuto.snapshot.record import LogPositions
from tenuto.snapshot.sample_record import Interval
from tenuto.snapshot.samples import PlacedSnapshot, batches_of, block_of, sample_bytes

# A samples record holds whole snapshots up to about this many bytes, and at least one.
RECORD_BYTES = 400_000
# Many snapshots are joined at once: a join costs a millisecond whatever its size.
_BLOCK_BYTES = 8_000_000
# Labels are dropped this often, in time of arrival: each time costs a look at every segment.
_EVICT_EVERY_MS = 10_000
_NO_LOG = LogPositions([], 0, b"", [], [], [])


@dataclass(frozen=True)
class Emission:
    """One samples record to be: its interval, and its rows (none for a progress record)."""

    interval: Interval
    rows: pa.RecordBatch | None


@dataclass
class Front:
    """How far one topic's partition has been read."""

    arrival_ms: int = 0
    ended: bool = False


@dataclass
class DelayLine:
    """The join of one partition of one sample stream.

    Args:
        stream: labels and windows.
        events: every event of the platform.
        rules: what counts.
        partition: number, for the samples' columns.
        start: snapshot offset up to which samples were emitted before.
        arrival_ms: arrival of the snapshots partition up to ``start``.
        scores: names of the served scores that samples show.

    Attributes:
        emitted: snapshot offset that the next record starts at.
        dropped: what evictions dropped since it was last looked at.
    """

    stream: SampleStream
    events: Iterable[Event]
    rules: TimeRules
    partition: int
    start: int
    arrival_ms: int
    scores: Sequence[str] = ()
    memory: LabelMemory = field(init=False)
    labels: dict[str, Front] = field(init=False)
    snapshots: Front = field(init=False)
    waiting: deque[PlacedSnapshot] = field(init=False, default_factory=deque)
    waiting_bytes: int = field(init=False, default=0)
    emitted: int = field(init=False)
    dropped: list[Dropped] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.memory = LabelMemory(self.stream, self.events)
        self.labels = {event: Front() for event in self.memory.reach_ms}
        self.snapshots = Front(self.arrival_ms)
        self.emitted = self._read_to = self.start
        self._emitted_arrival_ms = self.arrival_ms
        self._evicted_to_ms = 0
        self._told = Interval(self.start, self.start, self.arrival_ms)
        self._columns: list[tuple[str, str]] = []

    def add_labels(self, batch: LabelBatch, arrival_ms: int, *, ended: bool = False) -> None:
        """Take in accepted records of one event, read to this arrival."""
        front = self.labels[batch.event]
        front.arrival_ms = max(front.arrival_ms, arrival_ms)
        front.ended = front.ended or ended
        self.memory.add(batch)

    def add_snapshots(
        self,
        placed: Sequence[PlacedSnapshot],
        read_to: int,
        arrival_ms: int,
        *,
        ended: bool = False,
    ) -> None:
        """Take in accepted snapshots, read to this offset and arrival."""
        for one in placed:
            if one.offset >= self.emitted:
                self.waiting.append(self._slim(one))
                self.waiting_bytes += sample_bytes(one)
        self._read_to = read_to
        self.snapshots.arrival_ms = max(self.snapshots.arrival_ms, arrival_ms)
        self.snapshots.ended = self.snapshots.ended or ended

    def is_final(self, placed: PlacedSnapshot) -> bool:
        """Whether every label that can count for it has been read."""
        asked = placed.snapshot.request_ts + self.rules.lateness_ms
        reach = self.memory.reach_ms
        return all(front.arrival_ms > asked + reach[e] for e, front in self.labels.items())

    def emit(self) -> Iterator[Emission]:
        """Samples of all that is final, in offset order; each record's interval follows the last.

        A record counts as emitted when the next one is asked for: until then nothing that it
        needs is dropped.
        """
        while block := self._final_block():
            labels = join(self.memory, block_of(block))
            for run, rows in batches_of(
                block,
                labels,
                self.stream,
                self.partition,
                scores=self.scores,
                max_bytes=RECORD_BYTES,
            ):
                last = run[-1]
                end, arrival_ms = self._next_after(run)
                interval = Interval(self.emitted, end, arrival_ms)
                yield Emission(interval, rows)
                self.emitted = end
                self._emitted_arrival_ms = last.arrival_ms
                self._told = interval
                for placed in run:
                    self.waiting_bytes -= sample_bytes(placed)
                    self.waiting.popleft()
        self._evict()

    def progress(self) -> Emission | None:
        """A record without rows: how far time is, and the end mark.

        Where snapshots wait, time is that of the first: none before it can come any more.
        """
        if self.waiting:
            first = self.waiting[0]
            interval = Interval(self.emitted, first.offset, first.arrival_ms)
        else:
            interval = Interval(
                self.emitted, self._read_to, self.snapshots.arrival_ms, self.snapshots.ended
            )
        told = self._told
        if (interval.end, interval.arrival_ms, interval.is_end) == (
            told.end,
            told.arrival_ms,
            told.is_end,
        ):
            return None
        return Emission(interval, None)

    def told(self, progress: Emission) -> None:
        """A progress record is safe in its topic."""
        self._told = progress.interval
        self.emitted = progress.interval.end

    def ahead(self, event: str, margin_ms: int) -> bool:
        """Whether labels of an event are read further than the snapshots need them by now.

        Where none waits, that is what the next one needs, which arrives no earlier than the last:
        so also where snapshots stand still, what is held is bounded in time.
        """
        waits = self.waiting[0].snapshot.request_ts if self.waiting else self.snapshots.arrival_ms
        reach = self.memory.reach_ms[event] + self.rules.lateness_ms
        return self.labels[event].arrival_ms > waits + reach + margin_ms

    def _slim(self, placed: PlacedSnapshot) -> PlacedSnapshot:
        """The snapshot without what no sample shows, its columns shared with the one before it.

        Positions and names would otherwise be most of what waits.
        """
        columns = placed.snapshot.columns
        if columns == self._columns:
            columns = self._columns
        self._columns = columns
        slim = structs.replace(placed.snapshot, columns=columns, log=_NO_LOG, context={})
        return replace(placed, snapshot=slim)

    def _next_after(self, run: Sequence[PlacedSnapshot]) -> tuple[int, int]:
        """Where the next snapshot is after this run, the first to wait, and its arrival."""
        if len(self.waiting) > len(run):
            following = self.waiting[len(run)]
            return following.offset, following.arrival_ms
        return run[-1].offset + 1, run[-1].arrival_ms

    def _final_block(self) -> list[PlacedSnapshot]:
        block: list[PlacedSnapshot] = []
        size = 0
        for placed in self.waiting:
            size += sample_bytes(placed)
            if (block and size > _BLOCK_BYTES) or not self.is_final(placed):
                break
            block.append(placed)
        return block

    def _evict(self) -> None:
        arrival_ms = self._emitted_arrival_ms if self.waiting else self.snapshots.arrival_ms
        oldest_ms = arrival_ms - self.rules.snapshot_lateness_ms - self.rules.future_ms
        if oldest_ms >= self._evicted_to_ms + _EVICT_EVERY_MS:
            self._evicted_to_ms = oldest_ms
            self.dropped.append(self.memory.evict(oldest_ms))
