"""The joiner: snapshots and labels in, samples out, in the order of snapshot offsets.

It keeps no state of its own: what was emitted is read off the samples topic, and labels are read
again from where a snapshot still to come can need them. One samples record is in flight per
partition, and a failed send ends the process; so intervals chain, and a double is harmless.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from tenuto.features.durations import duration_text
from tenuto.features.events import Event
from tenuto.snapshot.delay_line import DelayLine, Emission
from tenuto.snapshot.label_memory import LabelBatch
from tenuto.snapshot.labels import SampleStream
from tenuto.snapshot.sample_record import Interval, encode_rows, interval_of
from tenuto.streams.batches import TP, Batch, Delivery
from tenuto.streams.broker_log import BrokerLog
from tenuto.streams.codec import EventCodec
from tenuto.streams.door import Accepted, Limits, judge
from tenuto.streams.feature_worker import DeadLetters
from tenuto.streams.join_metrics import JoinMetrics
from tenuto.streams.snapshot_door import judge_snapshots

logger = logging.getLogger(__name__)

# Snapshots are read late: so many bytes of them wait in memory, for each partition, at most.
WAITING_BYTES = 16 << 20
# How far labels may be read ahead of what the first waiting snapshot needs, and from which share
# of the memory's bound on they may not.
AHEAD_MS = 120_000
TIGHT_SHARE = 0.9


class JoinMemoryError(RuntimeError):
    """More waits in memory than may, and none of it may be dropped: the mend is in the text."""


class SamplesOut(Protocol):
    """Where samples records go; returns when the broker has acknowledged one."""

    async def send(
        self, partition: int, interval: Interval, value: bytes | None, life: bytes
    ) -> None: ...


class JoinWorker:
    """Feeds one delay line for each partition that it holds.

    Args:
        stream: labels and windows.
        events: every event of the platform.
        codecs: of the events, by topic name on the broker.
        snapshots_topic, samples_topic: names on the broker.
        limits: of event records; ``snapshot_limits`` of snapshots.
        log: the broker's side.
        samples: where records go.
        dead_letters: for refused snapshots, and refused records of the ``judged`` events.
        scores: names of the served scores that samples show.
        judged: events that nobody else judges, because no feature counts them.
        metrics: of this process.
        max_bytes: labels and snapshots that may wait in memory, all partitions together.
    """

    def __init__(
        self,
        stream: SampleStream,
        events: Iterable[Event],
        codecs: Mapping[str, EventCodec],
        *,
        snapshots_topic: str,
        samples_topic: str,
        limits: Limits,
        snapshot_limits: Limits,
        log: BrokerLog,
        samples: SamplesOut,
        dead_letters: DeadLetters,
        judged: Collection[str],
        scores: Sequence[str],
        metrics: JoinMetrics,
        max_bytes: int = 4 << 30,
    ) -> None:
        self.delivery: Delivery | None = None
        self._stream = stream
        self._events = tuple(events)
        self._codecs = codecs
        self._snapshots_topic, self._samples_topic = snapshots_topic, samples_topic
        self._limits, self._snapshot_limits = limits, snapshot_limits
        self._log = log
        self._samples = samples
        self._dead_letters = dead_letters
        self._judged = frozenset(judged)
        self._scores = tuple(scores)
        self._metrics = metrics
        self._metrics.bound.set(max_bytes)
        self._max_bytes = max_bytes
        self._tight = False
        self._lines: dict[int, DelayLine] = {}
        self._next: dict[TP, int] = {}
        self._life = b""
        self._topics = {codec.event.name: topic for topic, codec in codecs.items()}
        self._paused: set[TP] = set()
        self._lock = asyncio.Lock()

    @property
    def held(self) -> set[TP]:
        """Partitions read by now."""
        topics = [self._snapshots_topic, *self._codecs]
        return {TP(topic, partition) for topic in topics for partition in self._lines}

    @property
    def paused(self) -> set[TP]:
        """Partitions that are not being read for now, because others are behind."""
        return self._paused

    # Positions, as whole-batch delivery asks for them.

    async def start_positions(self, partitions: set[TP]) -> Mapping[TP, int]:
        """Snapshots from where the samples end; labels from where one still to come needs them."""
        async with self._lock:
            numbers = sorted({tp.partition for tp in partitions})
            for number in numbers:
                missing = {self._snapshots_topic, *self._codecs} - {
                    tp.topic for tp in partitions if tp.partition == number
                }
                if missing:
                    raise RuntimeError(
                        f"partition {number} was assigned without that of {sorted(missing)}: "
                        "the input topics must have one partition count"
                    )
            self._lines.clear()
            # Faust resumes what it assigns before it asks here. What was paused in between, for
            # lines that are gone, nobody would resume.
            if paused := self._paused & partitions:
                assert self.delivery is not None
                self.delivery.resume(paused)
            self._paused.clear()
            return await self._start(numbers)

    async def on_revoked(self, partitions: set[TP]) -> None:
        async with self._lock:
            for tp in partitions:
                self._lines.pop(tp.partition, None)
                self._paused.discard(tp)
            self._metrics.forget(partitions)

    async def _start(self, numbers: Collection[int]) -> dict[TP, int]:
        snapshots = [TP(self._snapshots_topic, number) for number in numbers]
        samples = [TP(self._samples_topic, number) for number in numbers]
        # What is sent and acknowledged late, by a topic made anew, is told apart by this.
        self._life = await self._log.incarnation(self._samples_topic)
        extents = await self._log.extents([*snapshots, *samples, *self._label_tps(numbers)])
        positions: dict[TP, int] = {}
        since: dict[TP, int] = {}
        rules = self._limits.rules
        for tp, sample_tp in zip(snapshots, samples, strict=True):
            # The last record's end is a lower bound even when a zombie wrote it: readers of the
            # chain take no row twice.
            last, begin = extents[sample_tp].last, extents[tp].begin
            told = self._told(sample_tp, last)
            start, arrival_ms = (told.end, told.arrival_ms) if told else (begin, 0)
            if start < begin:
                # The next record's interval reaches over them, so that the chain goes on.
                logger.error("%s[%d]: snapshots [%d, %d) were deleted unread", *tp, start, begin)
                self._metrics.missed.inc(begin - start)
            number = tp.partition
            self._lines[number] = DelayLine(
                self._stream, self._events, rules, number, start, arrival_ms, self._scores
            )
            positions[tp] = max(start, begin)
            oldest_ms = arrival_ms - rules.snapshot_lateness_ms - rules.future_ms
            since.update(dict.fromkeys(self._label_tps([number]), oldest_ms))
        first = await self._log.first_since(since)
        for label in since:
            # Without a record that young, the end is where such a one will come.
            offset = first[label][0] if label in first else extents[label].end
            positions[label] = max(extents[label].begin, offset if since[label] > 0 else 0)
        self._next = dict(positions)
        return positions

    def _told(self, tp: TP, last: Any) -> Interval | None:
        """The interval of a partition's last samples record; None to join from the first snapshot.

        Where someone else wrote it, all is joined again: readers take no row twice.
        """
        if last is None:
            return None
        try:
            return interval_of(last.headers, self._life)
        except ValueError as error:
            logger.warning(
                "%s[%d]@%d: %s: joining from the first snapshot", *tp, last.offset, error
            )
            return None

    def _label_tps(self, numbers: Collection[int]) -> list[TP]:
        return [TP(topic, number) for topic in self._codecs for number in numbers]

    # What the agent does.

    async def take(self, batch: Batch) -> None:
        """Take in a batch; what it makes final is emitted soon after, many snapshots at once."""
        assert self.delivery is not None, "install_batches() comes first"
        async with self._lock:
            line = self._lines.get(batch.partition)
            if line is None or not self.delivery.is_current(batch):
                return
            self._follow(batch)
            if batch.topic == self._snapshots_topic:
                await self._take_snapshots(line, batch)
            else:
                await self._take_labels(line, batch)
            self._pause_or_resume(line)

    async def emit(self) -> None:
        """Emit what is final by now."""
        async with self._lock:
            for line in self._lines.values():
                await self._emit(line)
                self._pause_or_resume(line)

    async def tell_progress(self) -> None:
        """Say in the samples topic how far time is where nothing waits."""
        async with self._lock:
            for line in self._lines.values():
                await self._tell(line)

    async def weigh(self) -> None:
        """Look at how much waits in memory, against the bound.

        Raises:
            JoinMemoryError: it is more than the bound. Nothing is lost: the next start goes on.
        """
        async with self._lock:
            held = sum(self._metrics.holds(line) for line in self._lines.values())
            self._tight = held > TIGHT_SHARE * self._max_bytes
            if held > self._max_bytes:
                horizon = duration_text(self._stream.horizon_ms(self._limits.rules.lateness_ms))
                raise JoinMemoryError(
                    f"sample stream {self._stream.name!r}: labels and snapshots of "
                    f"{len(self._lines)} partitions that wait take {held >> 20} MB, and "
                    f"workers.join_memory_mb is {self._max_bytes >> 20}: none of them may be "
                    f"dropped before its horizon of {horizon}: raise it, run more joiners, or "
                    "declare shorter windows"
                )

    def _follow(self, batch: Batch) -> None:
        """Insist that no record is left out: nobody else would notice that a label was.

        Raises:
            RuntimeError: the batch does not follow upon the last one. Nothing is lost: the next
                start goes on.
        """
        expected = self._next[batch.tp]
        if batch.start != expected:
            raise RuntimeError(f"{batch!r} came, and offset {expected} was to be next")
        self._next[batch.tp] = batch.end

    async def _take_snapshots(self, line: DelayLine, batch: Batch) -> None:
        accepted = judge_snapshots(self._snapshot_limits, batch, line.snapshots.arrival_ms)
        if accepted.refused:
            await self._dead_letters.write(accepted.refused)
        line.add_snapshots(accepted.placed, batch.end, accepted.arrival_after, ended=accepted.ended)
        self._metrics.took_snapshots(batch, accepted)

    async def _take_labels(self, line: DelayLine, batch: Batch) -> None:
        codec = self._codecs[batch.topic]
        event = codec.event.name
        accepted = judge(codec, self._limits, batch, line.labels[event].arrival_ms)
        if event in self._judged and accepted.refused:
            await self._dead_letters.write(accepted.refused)
            self._metrics.reads.refused(accepted.refused)
        line.add_labels(_labels(event, accepted), accepted.arrival_after, ended=accepted.ended)
        self._metrics.took_labels(batch, accepted, event)

    async def _emit(self, line: DelayLine) -> None:
        for emission in line.emit():
            await self._send(line, emission)
            self._metrics.emitted(emission, line)
        for dropped in line.dropped:
            self._metrics.dropped(dropped)
        line.dropped.clear()
        if line.snapshots.ended:
            await self._tell(line)

    async def _tell(self, line: DelayLine) -> None:
        progress = line.progress()
        if progress is not None:
            await self._send(line, progress)
            line.told(progress)

    async def _send(self, line: DelayLine, emission: Emission) -> None:
        value = None if emission.rows is None else encode_rows(emission.rows)
        await self._samples.send(line.partition, emission.interval, value, self._life)

    def _pause_or_resume(self, line: DelayLine) -> None:
        assert self.delivery is not None
        number = line.partition
        margin_ms = 0 if self._tight else AHEAD_MS
        wanted: dict[TP, bool] = {
            TP(self._snapshots_topic, number): line.waiting_bytes > WAITING_BYTES
        }
        for event in line.labels:
            wanted[TP(self._topics[event], number)] = line.ahead(event, margin_ms)
        pause = {tp for tp, paused in wanted.items() if paused and tp not in self._paused}
        resume = {tp for tp, paused in wanted.items() if not paused and tp in self._paused}
        if pause:
            self.delivery.pause(pause)
        if resume:
            self.delivery.resume(resume)
        self._paused = (self._paused | pause) - resume


def _labels(event: str, accepted: Accepted) -> LabelBatch:
    columns: dict[str, Any] = dict(accepted.columns)
    fields = {name: c for name, c in columns.items() if isinstance(c, np.ndarray)}
    return LabelBatch(
        event,
        columns["ts"],
        accepted.offsets,
        columns["position"].astype(np.int32),
        pa.array(columns["request_id"], pa.string()),
        pa.array(columns["item_id"], pa.string()),
        fields,
    )
