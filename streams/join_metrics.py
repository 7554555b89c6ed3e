"""Metrics of the joiner."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from tenuto.snapshot.delay_line import DelayLine, Emission
from tenuto.snapshot.label_memory import Dropped
from tenuto.streams.batches import TP, Batch
from tenuto.streams.door import Accepted
from tenuto.streams.read_metrics import ReadMetrics
from tenuto.streams.snapshot_door import AcceptedSnapshots

LABEL_DELAY_BUCKETS_S = (1.0, 5.0, 15.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 86400.0)


class JoinMetrics:
    """What a joiner counts; names and meanings are in docs/metrics.md."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.snapshots = Counter("tenuto_snapshots", "Snapshots read", registry=registry)
        self.missed = Counter(
            "tenuto_snapshots_missed", "Snapshots deleted before they were read", registry=registry
        )
        self.samples = Counter(
            "tenuto_samples", "Sample rows emitted, seen by the user or not", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.joined_labels = Counter(
            "tenuto_joined_labels", "Sample rows that have a label", ["label"], registry=registry
        )
        self.labels = Counter("tenuto_labels", "Labels read", ["event"], registry=registry)
        self.lost_labels = Counter(
            "tenuto_labels_without_row", "Labels dropped that no sample shows",
            ["event", "reason"], registry=registry,
        )  # fmt: skip
        self.label_delay = Histogram(
            "tenuto_label_delay_seconds", "From a row's impression to its label", ["label"],
            buckets=LABEL_DELAY_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.waiting = Gauge(
            "tenuto_snapshots_waiting", "Snapshots in memory that are not final",
            ["partition"], registry=registry,
        )  # fmt: skip
        self.label_bytes = Gauge(
            "tenuto_label_memory_bytes", "Memory of waiting labels", ["partition"],
            registry=registry,
        )  # fmt: skip
        self.snapshot_bytes = Gauge(
            "tenuto_snapshot_memory_bytes", "Memory of waiting snapshots", ["partition"],
            registry=registry,
        )  # fmt: skip
        self.bound = Gauge(
            "tenuto_join_max_bytes", "What may wait in memory, all partitions together",
            registry=registry,
        )  # fmt: skip
        self.reads = ReadMetrics(registry)

    def took_snapshots(self, batch: Batch, accepted: AcceptedSnapshots) -> None:
        """Account for a batch of snapshots."""
        self.snapshots.inc(len(accepted.placed))
        self.reads.refused(accepted.refused)
        self.reads.read(batch, accepted.arrival_after)

    def took_labels(self, batch: Batch, accepted: Accepted, event: str) -> None:
        """Account for a batch of labels."""
        self.labels.labels(event).inc(len(accepted))
        self.reads.read(batch, accepted.arrival_after)

    def emitted(self, emission: Emission, line: DelayLine) -> None:
        """Account for rows that are safe in the samples topic."""
        rows = emission.rows
        if rows is None:
            return
        impressed = int(rows.column("impressed").to_numpy().sum())
        self.samples.labels("impressed").inc(impressed)
        self.samples.labels("not_impressed").inc(rows.num_rows - impressed)
        for label in line.stream.labels:
            column = rows.column(label.name)
            happened = (
                column.to_numpy().sum()
                if label.kind == "first"
                else len(column) - column.null_count
            )
            self.joined_labels.labels(label.name).inc(int(happened))
            if label.delay:
                delay = self.label_delay.labels(label.name)
                for delay_ms in rows.column(label.delay).drop_null().to_pylist():
                    delay.observe(delay_ms / 1000.0)

    def holds(self, line: DelayLine) -> int:
        """Account for what waits in memory; returns its bytes."""
        label_bytes = line.memory.nbytes
        self.waiting.labels(line.partition).set(len(line.waiting))
        self.label_bytes.labels(line.partition).set(label_bytes)
        self.snapshot_bytes.labels(line.partition).set(line.waiting_bytes)
        return label_bytes + line.waiting_bytes

    def forget(self, partitions: Collection[TP]) -> None:
        """Say nothing more of partitions that another worker has now."""
        self.reads.forget(partitions)
        for number in {str(tp.partition) for tp in partitions}:
            for gauge in (self.waiting, self.label_bytes, self.snapshot_bytes):
                gauge.remove(number)

    def dropped(self, dropped: Dropped) -> None:
        """Account for labels that an eviction dropped."""
        for reason, counts in (("unmatched", dropped.unmatched), ("not_shown", dropped.not_shown)):
            for event, count in counts.items():
                self.lost_labels.labels(event, reason).inc(count)
