"""Writing snapshots from a serving tier without ever making ranking wait.

A bounded buffer and a background thread with one idempotent Kafka producer; what does not fit is
dropped and counted. A forked child starts a thread and a producer of its own.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from tenuto.snapshot.record import Snapshot, encode

logger = logging.getLogger(__name__)

_SAMPLE_BUCKETS = 1 << 32


def sampled(request_id: str, sample_rate: float) -> bool:
    """Whether a request is in the sample: a hash of its id, the same on every server."""
    return zlib.crc32(request_id.encode()) < sample_rate * _SAMPLE_BUCKETS


@dataclass(frozen=True, slots=True)
class _Item:
    key: bytes
    value: bytes
    timestamp_ms: int | None
    headers: list[tuple[str, bytes]]


class CaptureMetrics:
    """Counters of one process's captures."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.captured = Counter(
            "tenuto_snapshots_captured", "Snapshots handed to the producer", registry=registry
        )
        self.dropped = Counter(
            "tenuto_snapshots_dropped", "Snapshots dropped", ["reason"], registry=registry
        )


_metrics: CaptureMetrics | None = None
_metrics_lock = threading.Lock()


def default_metrics() -> CaptureMetrics:
    """The process's counters in Prometheus's default registry, made on first use."""
    global _metrics
    with _metrics_lock:
        if _metrics is None:
            _metrics = CaptureMetrics()
        return _metrics


class Capture:
    """Sends snapshots to their topic.

    Args:
        kafka: options of ``kafka.KafkaProducer`` (bootstrap servers, security).
        topic: the snapshots topic.
        sample_rate: share of requests to keep, by hash of the request id.
        buffer: snapshots that may wait; further ones are dropped and counted.
        max_bytes: larger snapshots are dropped and counted.
    """

    def __init__(
        self,
        kafka: Mapping[str, Any],
        topic: str = "snapshots",
        *,
        sample_rate: float = 1.0,
        buffer: int = 10_000,
        max_bytes: int = 1 << 20,
        metrics: CaptureMetrics | None = None,
    ) -> None:
        self.sample_rate = sample_rate
        self._kafka = dict(kafka)
        self._topic = topic
        self._buffer, self._max_bytes = buffer, max_bytes
        self._metrics = metrics or default_metrics()
        self._lock = threading.Lock()
        self._pid = 0
        self._queue: queue.Queue[_Item | None] = queue.Queue(buffer)
        self._thread: threading.Thread | None = None

    def send(self, snapshot: Snapshot, *, timestamp_ms: int | None = None) -> bool:
        """Queue a snapshot; never blocks.

        Args:
            snapshot: what to write.
            timestamp_ms: record timestamp, for topics with CreateTime (replays).

        Returns:
            False when it was dropped: the buffer is full, or it is too large.
        """
        value = encode(snapshot)
        if len(value) > self._max_bytes:
            self._metrics.dropped.labels("oversized").inc()
            return False
        sent_at = b"%d" % (time.time_ns() // 1_000_000)
        item = _Item(snapshot.request_id.encode(), value, timestamp_ms, [("sent_at", sent_at)])
        self._start()
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._metrics.dropped.labels("buffer_full").inc()
            return False
        return True

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until everything queued is acknowledged by the broker.

        Raises:
            TimeoutError: it was not, in time.
        """
        deadline = time.monotonic() + timeout_s
        with self._queue.all_tasks_done:
            while self._queue.unfinished_tasks:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError(f"{self._queue.unfinished_tasks} snapshots not acknowledged")
                self._queue.all_tasks_done.wait(remaining)

    def close(self, timeout_s: float = 10.0) -> None:
        """Send what is queued, then stop the thread."""
        thread = self._thread
        if thread is None or self._pid != os.getpid():
            return
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            logger.warning("capture: closed with a full buffer: its snapshots are lost")
        thread.join(timeout_s)
        self._thread = None

    def _start(self) -> None:
        if self._thread is not None and self._pid == os.getpid():
            return
        with self._lock:
            if self._thread is not None and self._pid == os.getpid():
                return
            # Threads and sockets do not survive a fork, and the parent sends its own queue.
            self._queue = queue.Queue(self._buffer)
            self._pid = os.getpid()
            self._thread = threading.Thread(target=self._run, name="tenuto-capture", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        producer = self._connect()
        waiting = self._queue
        while (item := waiting.get()) is not None:
            try:
                future = producer.send(
                    self._topic,
                    item.value,
                    key=item.key,
                    timestamp_ms=item.timestamp_ms,
                    headers=item.headers,
                )
            except Exception as error:
                self._done(error)
                continue
            future.add_callback(lambda _: self._done(None))
            future.add_errback(self._done)
        producer.close(timeout=10)

    def _done(self, error: BaseException | None) -> None:
        if error is None:
            self._metrics.captured.inc()
        else:
            self._metrics.dropped.labels("unsent").inc()
            logger.warning("capture: a snapshot was not sent: %s", error)
        self._queue.task_done()

    def _connect(self) -> Any:
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        pause_s = 0.1
        while True:
            try:
                return KafkaProducer(
                    **{"acks": "all", "linger_ms": 5, "max_block_ms": 10_000, **self._kafka}
                )
            except KafkaError as error:
                # Snapshots wait in the bounded buffer, and are dropped and counted beyond it.
                logger.warning("capture: no broker yet: %s", error)
                time.sleep(pause_s)
                pause_s = min(5.0, pause_s * 2)
