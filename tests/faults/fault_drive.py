"""What stands between the driver and the servers: it tells time to the faults, and waits out an
outage as a client would.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import redis

from tenuto.features.buckets import Buckets
from tenuto.features.client import FeatureClient, StoreUnavailableError
from tenuto.features.deadline import DeadlineExceededError
from tenuto.features.progress import PartitionCountError
from tenuto.features.sums import AsOfTooOldError
from tenuto.streams.outbox import Outbox

PATIENCE_S = 120.0
"""How long the driver waits for a server that was hurt: one may be slow to start again."""
_EARLIER = 200


@dataclass(frozen=True)
class SentRecord:
    """A record that the driver has sent."""

    topic: str
    value: bytes
    key: bytes | None
    partition: int
    headers: Sequence[tuple[str, bytes]]
    timestamp_ms: int


@dataclass
class Clock:
    """Where the run is: its event time, and who is to be told.

    Attributes:
        start_ms, end_ms: of the run, event time.
        on_point: called with ``record``, ``applying`` or ``boundary`` and the share of the run.
    """

    start_ms: int
    end_ms: int
    on_point: Callable[[str, float], None] = lambda when, share: None
    now_ms: int = 0

    def tell(self, when: str) -> None:
        """A point of this kind is reached."""
        span = max(1, self.end_ms - self.start_ms)
        self.on_point(when, (self.now_ms - self.start_ms) / span)


@dataclass
class WatchedOutbox:
    """An outbox that counts records and remembers the last ones."""

    inner: Outbox
    clock: Clock
    sent: int = 0
    earlier: list[SentRecord] = field(default_factory=list)
    stamps: dict[tuple[str, int], int] = field(default_factory=dict)

    def send(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None = None,
        partition: int = 0,
        headers: Sequence[tuple[str, bytes]] = (),
        timestamp_ms: int = 0,
    ) -> Any:
        self.sent += 1
        if key is not None:
            record = SentRecord(topic, value, key, partition, headers, timestamp_ms)
            self.earlier.append(record)
            del self.earlier[:-_EARLIER]
        self.stamps[topic, partition] = timestamp_ms
        self.clock.now_ms = max(self.clock.now_ms, min(timestamp_ms, self.clock.end_ms))
        self.clock.tell("record")
        return self.inner.send(
            topic, value, key=key, partition=partition, headers=headers, timestamp_ms=timestamp_ms
        )

    def flush(self, timeout_s: float) -> None:
        # A broker that was killed can take a minute to come back on a busy machine.
        self.inner.flush(max(timeout_s, PATIENCE_S))

    def close(self, timeout_s: float = PATIENCE_S) -> None:
        self.inner.close(timeout_s)


@dataclass
class PatientStore:
    """The driver's view of Redis's positions; at a loose boundary it says that all is read."""

    inner: Buckets
    clock: Clock
    is_loose: Callable[[], bool]
    first: bool = True

    @property
    def layout(self) -> Any:
        return self.inner.layout

    def next_offsets(self) -> Any:
        if self.first:
            self.first = False
            self.clock.tell("applying")
            if self.is_loose():
                return np.full_like(patiently(self.inner.next_offsets), np.iinfo(np.int64).max)
        return patiently(self.inner.next_offsets)


@dataclass
class PatientClient:
    """Reads once more where a read is refused: a ranker's caller would.

    Attributes:
        whole: set while every entity's key is as the workers wrote it. Whoever read another would
            see an entity without history, and nobody promises that he does not.
    """

    inner: FeatureClient
    whole: threading.Event

    @property
    def reader(self) -> Any:
        return self.inner.reader

    def read(self, request: Any, candidates: Any, context: Any = None, **options: Any) -> Any:
        self.whole.wait(PATIENCE_S)
        return patiently(lambda: self.inner.read(request, candidates, context, **options))


def patiently(ask: Callable[[], Any]) -> Any:
    """Ask until Redis answers."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except (
            redis.RedisError,
            StoreUnavailableError,
            DeadlineExceededError,
            PartitionCountError,
            AsOfTooOldError,
        ):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@dataclass
class Later:
    """What is to happen after a while, in threads; their errors are kept."""

    threads: list[threading.Thread] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def do(self, seconds: float, action: Callable[[], None]) -> None:
        """Do it after so many seconds."""

        def call() -> None:
            time.sleep(seconds)
            try:
                action()
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        self.threads.append(thread)

    def finish(self) -> None:
        """Wait for all; raises the first error."""
        for thread in self.threads:
            thread.join(60.0)
        if self.errors:
            raise self.errors[0]


def percentile(values: Sequence[float], share: float) -> float:
    """A value that so much of them does not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
