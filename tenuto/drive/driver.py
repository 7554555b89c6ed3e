"""Lock-step event time: publish, wait until Redis has read it, then let requests read.

At each boundary S that has requests, all events before S are published and waited for; then the
requests of [S, S + freshness) read with windows as of S and are captured. So what a request sees
follows from the log alone, however fast or slow the machine is.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from tenuto.drive.source import EventRecord, Request, Source
from tenuto.features.buckets import Buckets
from tenuto.features.client import FeatureClient
from tenuto.features.events import Event
from tenuto.features.matrix import Matrix
from tenuto.features.reader import Request as ReadRequest
from tenuto.snapshot import record as snapshots
from tenuto.streams.codec import EventCodec
from tenuto.streams.headers import SENT_AT
from tenuto.streams.heartbeats import heartbeat
from tenuto.streams.outbox import Outbox
from tenuto.streams.partitions import partition_of

_POLL_S = 0.001
_DAY_MS = 86_400_000


class StalledError(RuntimeError):
    """Redis's positions did not reach what was published: the feature worker is gone or behind."""


@dataclass(frozen=True)
class Slate:
    """What a policy decides to show.

    Attributes:
        shown: indices of the candidates, in shown order.
        policy: who decided.
        slice: share of the traffic that the request belongs to.
        scores: served scores by name, one a shown item.
        propensity: probability of the order, where known.
        model: version of the model that scored.
    """

    shown: Sequence[int]
    policy: str = ""
    scores: Mapping[str, Any] = field(default_factory=dict)
    propensity: float | None = None
    slice: str = ""
    model: str = ""


def as_logged(request: Request, matrix: Matrix) -> Slate:
    """The order of an interaction log."""
    return Slate(range(len(request.candidates)), "log")


OnOutcomes = Callable[[Slate, Sequence[EventRecord]], None]


def nobody(slate: Slate, events: Sequence[EventRecord]) -> None:
    """Told what came of a slate, and does nothing."""


class Gate(Protocol):
    """What the requests of a boundary wait for beside the features."""

    def is_due(self, boundary_ms: int) -> bool:
        """Whether they wait at this boundary: every partition is told the time before."""

    def wait(self, boundary_ms: int) -> None:
        """Return when they may be served."""


@dataclass
class Counts:
    """What a run has done so far.

    Attributes:
        events: published, by event.
        rows: shown items, and so sample rows to be.
        freshness_ms: wall time from publishing to readable, of each boundary that published.
        event_time_ms: the last boundary; ``newest_ms``, the newest event published.
    """

    events: dict[str, int] = field(default_factory=dict)
    heartbeats: int = 0
    boundaries: int = 0
    requests: int = 0
    rows: int = 0
    freshness_ms: list[float] = field(default_factory=list)
    event_time_ms: int = 0
    newest_ms: int = 0


@dataclass(frozen=True)
class Topics:
    """Names on the broker and the partition count of a run's input topics."""

    events: Mapping[str, str]
    snapshots: str
    partitions: int


class Driver:
    """Runs a source through the real components.

    Args:
        source: requests and outcomes.
        events: the application's events.
        topics: where to write.
        outbox: how; it is flushed at each boundary.
        client: reads matrices.
        store: tells how far Redis has read.
        freshness_ms: distance of the boundaries.
        policy: decides what a request shows.
        on_outcomes: told what came of each slate.
        horizon_ms: longest of the sample streams.
        check: called while waiting and before each request; raises when going on is in vain.
        stall_s: how long to wait for the feature worker before giving up.
    """

    def __init__(
        self,
        source: Source,
        *,
        events: Sequence[Event],
        topics: Topics,
        outbox: Outbox,
        client: FeatureClient,
        store: Buckets,
        freshness_ms: int,
        horizon_ms: int,
        policy: Callable[[Request, Matrix], Slate] = as_logged,
        on_outcomes: OnOutcomes = nobody,
        check: Callable[[], None] = lambda: None,
        stall_s: float = 120.0,
    ) -> None:
        self.counts = Counts()
        self._source = source
        self._codecs = {event.name: EventCodec(event) for event in events}
        self._topics = topics
        self._outbox = outbox
        self._client = client
        self._store = store
        self.freshness_ms = freshness_ms
        self._horizon_ms = horizon_ms
        self._policy = policy
        self._gate: Gate | None = None
        self._on_outcomes = on_outcomes
        self._check = check
        self._stall_s = stall_s
        self._pending: list[tuple[int, int, EventRecord]] = []
        self._published = 0
        # Per topic and partition: its time, and the offset after its last record.
        self._clock: dict[tuple[str, int], int] = {}
        self._ends: dict[tuple[str, int], int] = {}
        self._sent: list[tuple[str, int, Any]] = []
        # What the features count is waited for; other events only the join reads.
        self._waited = [
            (topics.events[event], partition)
            for event in store.layout.topics
            for partition in range(topics.partitions)
        ]
        # A partition's time is moved by a heartbeat where its values would be called stale.
        fresh = [f.fresh_within_ms for f in client.reader.features.features if f.topics]
        self._beat_after_ms = min(fresh, default=_DAY_MS)

    def run(self, on_boundary: Callable[[Counts], None] = lambda counts: None) -> Counts:
        """Drive the whole source, then mark the end.

        Raises:
            StalledError: the feature worker does not keep up.
        """
        last_ms = self._source.start_ms
        for _, latest_ms in self.boundaries():
            last_ms = latest_ms
            on_boundary(self.counts)
        self.finish(last_ms)
        return self.counts

    def boundaries(self) -> Iterator[tuple[int, int]]:
        """Step through the boundaries that have requests; yields each, and its last request's
        time."""
        next_ms = self._source.next_request_ms(self._source.start_ms)
        while next_ms is not None:
            boundary_ms = next_ms - next_ms % self.freshness_ms
            last_ms = self.step(boundary_ms)
            yield boundary_ms, last_ms if last_ms is not None else boundary_ms
            next_ms = self._source.next_request_ms(boundary_ms + self.freshness_ms)

    def go_on(
        self,
        source: Source,
        policy: Callable[[Request, Matrix], Slate],
        freshness_ms: int,
        gate: Gate | None = None,
    ) -> None:
        """Go on with another source, of later requests, on the same topics."""
        self._source, self._policy, self.freshness_ms = source, policy, freshness_ms
        self._gate = gate

    def step(self, boundary_ms: int) -> int | None:
        """One boundary: everything before it is readable, then its requests; returns the last's
        time."""
        started = time.monotonic()
        self._publish_before(boundary_ms)
        gated = self._gate is not None and self._gate.is_due(boundary_ms)
        self._beat(boundary_ms, 0 if gated else self._beat_after_ms)
        published = bool(self._sent)
        self._settle()
        self._wait()
        if published:
            self.counts.freshness_ms.append((time.monotonic() - started) * 1000.0)
        if gated and self._gate is not None:
            self._gate.wait(boundary_ms)
        requests = self._source.requests(boundary_ms, boundary_ms + self.freshness_ms)
        for request in requests:
            self._check()
            self._serve(request, boundary_ms)
        counts = self.counts
        counts.boundaries += 1
        counts.event_time_ms = boundary_ms
        return requests[-1].ts_ms if requests else None

    def finish(self, last_request_ms: int) -> None:
        """Publish what is left, then the end marks that make every snapshot final."""
        snapshots_end = last_request_ms + self._horizon_ms + 2_000
        last_event_ms = max((entry[0] for entry in self._pending), default=0)
        labels_end = max(snapshots_end + self._horizon_ms + 1_000, last_event_ms + 1)
        self._publish_before(labels_end)
        self._settle()
        for partition in range(self._topics.partitions):
            self._heartbeat(self._topics.snapshots, partition, snapshots_end, end=True)
            for topic in self._topics.events.values():
                self._heartbeat(topic, partition, labels_end, end=True)
        self._settle()
        self._wait()

    def _serve(self, request: Request, boundary_ms: int) -> None:
        asked = ReadRequest(request.request_id, request.user_id, request.query, request.ts_ms)
        # A source may know more than the application has declared.
        declared = self._client.reader.features.contexts
        context = {name: value for name, value in request.context.items() if name in declared}
        matrix = self._client.read(
            asked, request.candidates, context, timeout_ms=10_000, as_of_ms=boundary_ms
        )
        slate = self._policy(request, matrix)
        shown = list(slate.shown)
        positions = None
        if request.positions is not None:
            positions = [request.positions[index] for index in shown]
        snapshot = snapshots.of(
            asked,
            matrix.take(shown),
            positions=positions,
            scores=slate.scores,
            policy=slate.policy,
            slice=slate.slice,
            propensity=slate.propensity,
            model=slate.model,
        )
        partition = self._partition(request.request_id)
        self._send(
            self._topics.snapshots,
            partition,
            snapshots.encode(snapshot),
            request.ts_ms,
            request.request_id,
        )
        outcomes = self._source.outcomes(request, shown)
        self._on_outcomes(slate, outcomes)
        for event in outcomes:
            self._published += 1
            heapq.heappush(self._pending, (event.ts_ms, self._published, event))
        self.counts.requests += 1
        self.counts.rows += len(shown)

    def _publish_before(self, boundary_ms: int) -> None:
        pending, counts = self._pending, self.counts.events
        while pending and pending[0][0] < boundary_ms:
            ts_ms, _, event = heapq.heappop(pending)
            request_id = event.fields["request_id"]
            value = self._codecs[event.event].encode(event.fields, validate=False)
            topic, partition = self._topics.events[event.event], self._partition(request_id)
            self._send(topic, partition, value, ts_ms, request_id)
            counts[event.event] = counts.get(event.event, 0) + 1
            self.counts.newest_ms = max(self.counts.newest_ms, ts_ms)

    def _partition(self, request_id: str) -> int:
        return int(partition_of([request_id], self._topics.partitions)[0])

    def _send(self, topic: str, partition: int, value: bytes, ts_ms: int, key: str) -> None:
        # A partition's records are in the order of time: what comes in behind it keeps its own ts.
        stamp = max(ts_ms, self._clock.get((topic, partition), 0))
        self._clock[topic, partition] = stamp
        sent_at = (SENT_AT, b"%d" % (time.time_ns() // 1_000_000))
        delivery = self._outbox.send(
            topic,
            value,
            key=key.encode(),
            partition=partition,
            headers=[sent_at],
            timestamp_ms=stamp,
        )
        self._sent.append((topic, partition, delivery))

    def _beat(self, boundary_ms: int, after_ms: int) -> None:
        topics = [*self._topics.events.values(), self._topics.snapshots]
        for topic in topics:
            for partition in range(self._topics.partitions):
                if self._clock.get((topic, partition), 0) < boundary_ms - after_ms:
                    self._heartbeat(topic, partition, boundary_ms)

    def _heartbeat(self, topic: str, partition: int, ts_ms: int, *, end: bool = False) -> None:
        beat = heartbeat(end=end)
        stamp = max(ts_ms, self._clock.get((topic, partition), 0))
        self._clock[topic, partition] = stamp
        delivery = self._outbox.send(
            topic, beat.value, partition=partition, headers=beat.headers, timestamp_ms=stamp
        )
        self._sent.append((topic, partition, delivery))
        self.counts.heartbeats += 1

    def _settle(self) -> None:
        """Wait until the broker has everything, and note where each partition ends."""
        if not self._sent:
            return
        self._outbox.flush(30.0)
        for topic, partition, delivery in self._sent:
            end = delivery.result(0).offset + 1
            self._ends[topic, partition] = max(end, self._ends.get((topic, partition), 0))
        self._sent.clear()

    def _wait(self) -> None:
        """Wait until Redis's positions have reached what was published."""
        ends = np.array([self._ends.get(at, 0) for at in self._waited], np.int64)
        started = time.monotonic()
        while True:
            positions = self._store.next_offsets()
            behind = np.flatnonzero(positions < ends)
            if not len(behind):
                return
            if time.monotonic() - started > self._stall_s:
                first = int(behind[0])
                topic, partition = self._waited[first]
                raise StalledError(
                    f"{topic}[{partition}]: Redis has read up to {positions[first]} of "
                    f"{ends[first]} for {self._stall_s:g} s: is `tenuto worker features` running?"
                )
            self._check()
            time.sleep(_POLL_S)
