"""Writing snapshots from a serving tier without ever making ranking wait.

A snapshot goes straight into the outbox where that needs no waiting; else a background thread with
a bounded queue waits for the broker, and what does not fit there is dropped and counted. Sending,
its bounds and forks are in ``tenuto.streams.outbox``; what a snapshot says in ``tenuto.snapshot``.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from tenuto.snapshot.record import Snapshot, encode
from tenuto.streams.headers import SENT_AT
from tenuto.streams.once import once
from tenuto.streams.outbox import Outbox, RecordTooLargeError, SendError, Sending

logger = logging.getLogger(__name__)

_SAMPLE_BUCKETS = 1 << 32
_RETRY_AFTER_S = 0.1
# How long an exit waits for the thread, which a resolver or a driver may hold.
_THREAD_ENDS_S = 5.0
REASONS = ("buffer_full", "oversized", "expired", "unsent", "closed")


class CaptureMetrics:
    """Counters of one process's captures."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.captured = Counter(
            "tenuto_snapshots_captured", "Snapshots acknowledged by the broker", registry=registry
        )
        dropped = Counter(
            "tenuto_snapshots_dropped", "Snapshots dropped", ["reason"], registry=registry
        )
        self.dropped = {reason: dropped.labels(reason) for reason in REASONS}
        self.waiting = Gauge(
            "tenuto_capture_waiting_bytes", "Snapshots that wait for the broker before the outbox",
            registry=registry,
        )  # fmt: skip


default_metrics = once(CaptureMetrics)
"""The process's counters in Prometheus's default registry."""


def sampled(request_id: str, sample_rate: float) -> bool:
    """Whether a request is in the sample: a hash of its id, the same on every server."""
    return zlib.crc32(request_id.encode()) < sample_rate * _SAMPLE_BUCKETS


class Capture:
    """Sends snapshots to their topic; thread-safe, and safe to use on both sides of a fork.

    Opens nothing until the first ``send``, each process for itself.

    Args:
        connection: options of a kafka-python client, ``bootstrap_servers`` and the like.
        topic: the snapshots topic.
        sample_rate: share of requests to keep, by hash of the request id.
        buffer: snapshots that may wait for the broker; further ones are dropped and counted.
        buffer_bytes: bytes that these may have together.
        max_wait_s: how long one may wait; the join refuses what comes later than a minute anyway.
        max_bytes: larger snapshots are dropped and counted.
        metrics: counters; the process's by default.
        clock_ms: wall clock for the ``sent_at`` header, which only metrics read.
        **outbox: further bounds, see ``Outbox``.
    """

    def __init__(
        self,
        connection: Mapping[str, Any],
        topic: str = "snapshots",
        *,
        sample_rate: float = 1.0,
        buffer: int = 10_000,
        buffer_bytes: int = 64 * 2**20,
        max_wait_s: float = 60.0,
        max_bytes: int = 1 << 20,
        metrics: CaptureMetrics | None = None,
        clock_ms: Callable[[], int] = lambda: int(time.time() * 1_000),
        **outbox: Any,
    ) -> None:
        self.sample_rate = sample_rate
        self._topic = topic
        self._bounds = buffer, buffer_bytes, max_wait_s
        self._clock_ms = clock_ms
        self._outbox = Outbox(connection, **{"max_record_bytes": max_bytes, **outbox})
        self._metrics = metrics or default_metrics()
        self._warned_s = 0.0
        # By process id: threads and locks do not survive a fork, and a parent sends its own.
        self._processes: dict[int, _Process] = {}

    def takes(self, request_id: str) -> bool:
        """Whether a request is in the sample."""
        return sampled(request_id, self.sample_rate)

    def send(self, snapshot: Snapshot, timestamp_ms: int | None = None) -> bool:
        """Take a snapshot; never blocks.

        Args:
            snapshot: what to write; its weight is divided by the sample rate.
            timestamp_ms: record timestamp, for topics with CreateTime (replays).

        Returns:
            False when it is not in the sample, or was dropped and counted.
        """
        if not self.takes(snapshot.request_id):
            return False
        if self.sample_rate < 1.0:
            weight = snapshot.weight / self.sample_rate
            snapshot = msgspec.structs.replace(snapshot, weight=weight)
        record = _Record(
            encode(snapshot), snapshot.request_id.encode(), self._clock_ms(), timestamp_ms,
            time.monotonic(),
        )  # fmt: skip
        process = self._process()
        if process.closed:
            return self._drop("closed")
        # What waits already goes first, or a long queue would starve.
        if not process.waiting:
            try:
                sending = self._outbox.try_send(self._topic, **record.fields)
            except RecordTooLargeError:
                return self._drop("oversized")
            except SendError:
                sending = None
            if sending is not None:
                self._follow(process, sending)
                return True
        reason = process.put(record)
        return self._drop(reason) if reason else True

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until everything taken so far is acknowledged, or dropped and counted.

        Raises:
            TimeoutError: something still waits after ``timeout_s``.
        """
        self._process().flush(timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        """Send what waits, for ``timeout_s`` at most; what is left is dropped and counted."""
        process = self._process()
        process.closed = True
        deadline_s = time.monotonic() + timeout_s
        try:
            process.flush(timeout_s)
        except TimeoutError as error:
            logger.warning("capture: closed too early: %s", error)
        for _ in process.stop():
            self._drop("closed")
        try:
            self._outbox.close(max(0.0, deadline_s - time.monotonic()))
        except (SendError, TimeoutError) as error:
            logger.warning("capture: %s", error)

    def _process(self) -> _Process:
        pid = os.getpid()
        process = self._processes.get(pid)
        if process is None:
            # Atomic: of two threads' new ones, of which neither has a thread yet, one stays.
            made = _Process(self._bounds, self._forward, self._metrics.waiting)
            process = self._processes.setdefault(pid, made)
        return process

    def _forward(self, process: _Process, record: _Record) -> None:
        """Bring one record to the outbox, waiting for the broker; runs on the thread."""
        refused: SendError | None = None
        while not process.stopping.is_set():
            if time.monotonic() - record.taken_s > self._bounds[2]:
                self._warn("a snapshot waited too long for the broker: %s", refused)
                self._drop("expired")
                return
            try:
                sending = self._outbox.send(self._topic, **record.fields)
            except RecordTooLargeError:
                self._drop("oversized")
                return
            except SendError as error:
                refused = error
                process.stopping.wait(_RETRY_AFTER_S)
            except Exception:
                logger.exception("capture: a snapshot could not be sent")
                self._drop("unsent")
                return
            else:
                self._follow(process, sending)
                return
        self._drop("closed")

    def _follow(self, process: _Process, sending: Sending) -> None:
        process.sent()

        def done(sending: Sending) -> None:
            try:
                sending.result(0)
            except (SendError, TimeoutError) as error:
                self._warn("a snapshot was not sent: %s", error)
                self._drop("unsent")
            else:
                self._metrics.captured.inc()
            process.settle()

        sending.add_done_callback(done)

    def _warn(self, message: str, error: Exception | None) -> None:
        # Drops are counted each, and said once a second: a broker's outage must not fill a disk.
        if time.monotonic() - self._warned_s > 1.0:
            self._warned_s = time.monotonic()
            logger.warning("capture: " + message, error)

    def _drop(self, reason: str) -> bool:
        self._metrics.dropped[reason].inc()
        return False


@dataclass(frozen=True, slots=True)
class _Record:
    value: bytes
    key: bytes
    sent_at_ms: int
    timestamp_ms: int | None
    taken_s: float

    @property
    def fields(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "key": self.key,
            "headers": [(SENT_AT, b"%d" % self.sent_at_ms)],
            "timestamp_ms": self.timestamp_ms,
        }


class _Process:
    """What waits in one process, the thread that waits for it, and what is on its way."""

    def __init__(
        self,
        bounds: tuple[int, int, float],
        forward: Callable[[_Process, _Record], None],
        shown: Gauge,
    ) -> None:
        self.closed = False
        self.stopping = threading.Event()
        self._most, self._most_bytes, _ = bounds
        self._forward = forward
        self._changed = threading.Condition()
        self._queue: deque[_Record] = deque()
        self._queued_bytes = 0
        self._shown = shown
        self._unsettled = 0
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Records that the thread has not brought to the outbox yet."""
        return len(self._queue)

    def put(self, record: _Record) -> str:
        """Queue a record for the thread; the reason why not, where it cannot be."""
        with self._changed:
            if self.closed:
                return "closed"
            room_bytes = self._most_bytes - self._queued_bytes
            if len(self._queue) >= self._most or len(record.value) > room_bytes:
                return "buffer_full"
            self._queue.append(record)
            self._weigh(len(record.value))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="tenuto-capture", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()
        return ""

    def sent(self) -> None:
        with self._changed:
            self._unsettled += 1

    def settle(self) -> None:
        with self._changed:
            self._unsettled -= 1
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> None:
        with self._changed:
            if not self._changed.wait_for(
                lambda: not self._queue and not self._unsettled, timeout_s
            ):
                left = len(self._queue) + self._unsettled
                raise TimeoutError(f"{left} snapshots not acknowledged after {timeout_s:g} s")

    def stop(self) -> list[_Record]:
        """End the thread; returns what it has not begun."""
        with self._changed:
            self.stopping.set()
            # The thread keeps the record that it has in hand at the head, and accounts for it.
            left = list(self._queue)[1:]
            for _ in left:
                self._weigh(-len(self._queue.pop().value))
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_THREAD_ENDS_S)
        return left

    def _weigh(self, more_bytes: int) -> None:
        """So many bytes more are queued; under the lock."""
        self._queued_bytes += more_bytes
        self._shown.set(self._queued_bytes)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self.stopping.is_set())
                if not self._queue:
                    return
                record = self._queue[0]
            self._forward(self, record)
            with self._changed:
                self._queue.popleft()
                self._weigh(-len(record.value))
                self._changed.notify_all()
