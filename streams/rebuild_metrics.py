"""How far the rebuilding of a lost store has come, and how far back the log would have to reach."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from tenuto.features.progress import Entry
from tenuto.streams.batches import TP


class RebuildMetrics:
    """Of the partitions that a feature worker holds.

    Args:
        clock: seconds of a steady clock.
    """

    def __init__(
        self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._partitions = Gauge(
            "tenuto_rebuilding_partitions", "Partitions that are being rebuilt", registry=registry
        )
        self._left = Gauge(
            "tenuto_rebuild_left_records", "Records still to be read until all are rebuilt",
            registry=registry,
        )  # fmt: skip
        self._seconds = Counter(
            "tenuto_rebuild_seconds", "Time in which a partition was being rebuilt",
            registry=registry,
        )  # fmt: skip
        self._clock = clock
        self._since_s: float | None = None

    def show(self, entries: Mapping[TP, Sequence[Entry]]) -> None:
        """Account for where the partitions stand now, each in every bucket."""
        left = [
            max(max(0, entry.rebuild_until - entry.next) for entry in by_bucket)
            for by_bucket in entries.values()
        ]
        self._partitions.set(sum(map(bool, left)))
        self._left.set(sum(left))
        now_s = self._clock()
        if self._since_s is not None:
            self._seconds.inc(now_s - self._since_s)
        self._since_s = now_s if any(left) else None


def retention_metrics(
    registry: CollectorRegistry, needed_s: float, kept_s: Mapping[str, float]
) -> None:
    """Show how far back a rebuild must read, and how long each topic is kept (inf for ever)."""
    Gauge(
        "tenuto_rebuild_span_seconds", "How far back the log must reach to rebuild every window",
        registry=registry,
    ).set(needed_s)  # fmt: skip
    kept = Gauge(
        "tenuto_topic_retention_seconds", "How long the broker keeps a topic's records",
        ["topic"], registry=registry,
    )  # fmt: skip
    for topic, seconds in kept_s.items():
        kept.labels(topic).set(seconds)
