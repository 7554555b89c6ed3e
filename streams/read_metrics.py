"""Metrics of whoever reads partitions: how far, how far behind, and what was refused.

Declared once, because the workers have the same ones; each worker is a process of its own, so in
its registry a name is there once.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from tenuto.streams.batches import TP, Batch
from tenuto.streams.refusals import Refusal


class ReadMetrics:
    """Of a worker that judges what it reads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.arrival = Gauge(
            "tenuto_arrival_timestamp_seconds", "Arrival that a partition has been read to",
            ["topic", "partition"], registry=registry,
        )  # fmt: skip
        self.lag = consumer_lag(registry)
        self.dead_letters = Counter(
            "tenuto_dead_letters", "Records refused", ["topic", "reason"], registry=registry
        )
        self.in_flight = Gauge(
            "tenuto_in_flight_bytes", "Values of fetched batches that are still in memory",
            registry=registry,
        )  # fmt: skip
        self.heartbeats_failed = Counter(
            "tenuto_heartbeats_failed", "Heartbeats that the broker did not take",
            registry=registry,
        )  # fmt: skip

    def read(self, batch: Batch, arrival_ms: int) -> None:
        """Account for a batch that is done with, its partition read to this arrival."""
        self.arrival.labels(batch.topic, batch.partition).set(max(0, arrival_ms) / 1000.0)
        self.lag.labels(batch.topic, batch.partition).set(max(0, batch.log_end - batch.end))

    def forget(self, partitions: Iterable[TP]) -> None:
        """Say nothing more of partitions that another worker has now."""
        for tp in partitions:
            for gauge in (self.arrival, self.lag):
                gauge.remove(tp.topic, str(tp.partition))

    def refused(self, refusals: Iterable[Refusal]) -> None:
        """Account for records that do not count."""
        for refusal in refusals:
            self.dead_letters.labels(refusal.topic, refusal.reason).inc()


def consumer_lag(registry: CollectorRegistry) -> Gauge:
    """Records of each partition that are there and not yet read."""
    return Gauge(
        "tenuto_consumer_lag_records", "Records not yet read of a partition",
        ["topic", "partition"], registry=registry,
    )  # fmt: skip
