"""Metrics of the feature worker."""

from __future__ import annotations

import time

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from tenuto.streams.batches import Batch
from tenuto.streams.door import Accepted
from tenuto.streams.headers import sent_at_ms

FRESHNESS_BUCKETS_S = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
# Records of a batch whose freshness is looked at: it costs a header look-up each.
_FRESHNESS_SAMPLES = 16


class FeatureMetrics:
    """What a feature worker counts; names and meanings are in docs/metrics.md."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.events = Counter(
            "tenuto_events", "Events applied to the state", ["event"], registry=registry
        )
        self.refused = Counter(
            "tenuto_dead_letters", "Records refused", ["topic", "reason"], registry=registry
        )
        self.batches = Counter("tenuto_batches", "Batches applied", ["event"], registry=registry)
        self.entity_writes = Counter(
            "tenuto_entity_writes", "Entities touched by batches", registry=registry
        )
        self.rewinds = Counter(
            "tenuto_rewinds", "Times the worker went where Redis's positions say",
            registry=registry,
        )  # fmt: skip
        self.swept = Counter(
            "tenuto_swept_keys", "Entities deleted because nobody can see them", registry=registry
        )
        self.freshness = Histogram(
            "tenuto_event_freshness_seconds", "From a client's send to readable in Redis",
            ["event"],
            buckets=FRESHNESS_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.watermark = Gauge(
            "tenuto_arrival_timestamp_seconds", "Arrival that a partition has been read to",
            ["topic", "partition"], registry=registry,
        )  # fmt: skip
        self.lag = Gauge(
            "tenuto_consumer_lag_records", "Records not yet read of a partition",
            ["topic", "partition"], registry=registry,
        )  # fmt: skip
        self.store_errors = Counter(
            "tenuto_store_errors", "Commands that Redis failed", registry=registry
        )

    def applied(self, batch: Batch, accepted: Accepted, event: str, entities: int) -> None:
        """Account for a batch that is readable now."""
        self.events.labels(event).inc(len(accepted))
        self.batches.labels(event).inc()
        self.entity_writes.inc(entities)
        for refusal in accepted.refused:
            self.refused.labels(refusal.topic, refusal.reason).inc()
        now_ms = time.time_ns() / 1e6
        step = max(1, len(batch) // _FRESHNESS_SAMPLES)
        freshness = self.freshness.labels(event)
        for headers in batch.headers[::step]:
            sent_ms = sent_at_ms(headers)
            if sent_ms is not None:
                freshness.observe(max(0.0, (now_ms - sent_ms) / 1000.0))
        self.watermark.labels(batch.topic, batch.partition).set(accepted.arrival_after / 1000.0)
        self.lag.labels(batch.topic, batch.partition).set(max(0, batch.log_end - batch.end))
