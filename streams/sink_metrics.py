"""Metrics of the Parquet sink."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from tenuto.snapshot.manifests import Manifest
from tenuto.streams.read_metrics import consumer_lag


class SinkMetrics:
    """What a sink counts; names and meanings are in docs/metrics.md."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.rows = Counter("tenuto_sink_rows", "Sample rows in finished files", registry=registry)
        self.files = Counter("tenuto_sink_files", "Finished Parquet files", registry=registry)
        self.bytes = Counter("tenuto_sink_bytes", "Bytes of finished files", registry=registry)
        self.gaps = Counter(
            "tenuto_sink_gaps", "Samples records ignored: something is missing before them",
            ["partition"], registry=registry,
        )  # fmt: skip
        self.old = Counter(
            "tenuto_sink_old_records", "Samples records that repeat what was read",
            registry=registry,
        )  # fmt: skip
        self.foreign = Counter(
            "tenuto_sink_foreign_records", "Records of the samples topic that are no samples",
            registry=registry,
        )  # fmt: skip
        self.finished = Gauge(
            "tenuto_sink_arrival_timestamp_seconds", "Arrival up to which files are finished",
            ["partition"], registry=registry,
        )  # fmt: skip
        self.waiting = Gauge(
            "tenuto_sink_waiting_bytes", "Rows in memory that are in no file yet",
            ["partition"], registry=registry,
        )  # fmt: skip
        self.lag = consumer_lag(registry)

    def wrote(self, manifest: Manifest) -> None:
        """Account for a chunk that is done."""
        self.rows.inc(manifest.rows)
        self.files.inc(len(manifest.files))
        self.bytes.inc(sum(file.bytes for file in manifest.files))
        self.finished.labels(manifest.partition).set(manifest.arrival_ms / 1000.0)
