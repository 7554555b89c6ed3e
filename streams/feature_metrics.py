"""Metrics of the feature worker."""

from __future__ import annotations

import time
from collections.abc import Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from tenuto.features.sweeper import Held
from tenuto.streams.batches import Batch
from tenuto.streams.door import Accepted
from tenuto.streams.headers import sent_at_ms
from tenuto.streams.read_metrics import ReadMetrics
from tenuto.streams.rebuild_metrics import RebuildMetrics

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
        self.entities = Gauge(
            "tenuto_store_entities", "Entities in Redis, as of the last round over all keys",
            ["view"], registry=registry,
        )  # fmt: skip
        self.bytes = Gauge(
            "tenuto_store_bytes", "Bytes that these entities take, from a sample", ["view"],
            registry=registry,
        )  # fmt: skip
        self.used = Gauge(
            "tenuto_redis_used_bytes", "Bytes that Redis uses, all of it", registry=registry
        )
        self.most = Gauge(
            "tenuto_redis_max_bytes", "Redis's maxmemory; 0 for none", registry=registry
        )
        self.freshness = Histogram(
            "tenuto_event_freshness_seconds", "From a client's send to readable in Redis",
            ["event"],
            buckets=FRESHNESS_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.missed = Counter(
            "tenuto_events_missed", "Offsets that retention deleted before they were read",
            ["topic"], registry=registry,
        )  # fmt: skip
        self.store_full = Gauge(
            "tenuto_store_full", "1 while the worker waits for Redis to have memory",
            registry=registry,
        )  # fmt: skip
        self.rebuilds = RebuildMetrics(registry)
        self.reads = ReadMetrics(registry)

    def holds(self, held: Mapping[str, Held]) -> None:
        """Account for what a round over all keys has found."""
        for view, found in held.items():
            self.entities.labels(view).set(found.entities)
            self.bytes.labels(view).set(found.bytes)

    def fills(self, used_bytes: int, max_bytes: int) -> None:
        """Account for Redis's own memory."""
        self.used.set(used_bytes)
        self.most.set(max_bytes)

    def applied(self, batch: Batch, accepted: Accepted, event: str, entities: int) -> None:
        """Account for a batch that is readable now."""
        self.events.labels(event).inc(len(accepted))
        self.batches.labels(event).inc()
        self.entity_writes.inc(entities)
        self.reads.refused(accepted.refused)
        now_ms = time.time_ns() / 1e6
        step = max(1, len(batch) // _FRESHNESS_SAMPLES)
        freshness = self.freshness.labels(event)
        for headers in batch.headers[::step]:
            sent_ms = sent_at_ms(headers)
            if sent_ms is not None:
                freshness.observe(max(0.0, (now_ms - sent_ms) / 1000.0))
        self.reads.read(batch, accepted.arrival_after)
