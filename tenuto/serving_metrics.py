"""What a serving tier's reads look like in Prometheus; labels never carry ids."""

from __future__ import annotations

import numpy as np
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from tenuto.features.deadline import DeadlineExceededError, StoreUnavailableError
from tenuto.features.matrix import Matrix, State
from tenuto.features.progress import BucketCountError, PartitionCountError
from tenuto.features.reader import ContextError
from tenuto.features.sums import AsOfTooOldError
from tenuto.streams.once import once

READ_BUCKETS_S = (
    0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0,
)  # fmt: skip
AGE_BUCKETS_S = (0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0)
# The first that an error is an instance of names its reason.
_REASONS: dict[type[Exception], str] = {
    DeadlineExceededError: "deadline",
    StoreUnavailableError: "store",
    ContextError: "context",
    AsOfTooOldError: "as_of",
    PartitionCountError: "partitions",
    BucketCountError: "buckets",
    Exception: "other",
}


class ServingMetrics:
    """Metrics of one process's reads."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.seconds = Histogram(
            "tenuto_read_seconds", "Time of a read that succeeded",
            buckets=READ_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.age = Histogram(
            "tenuto_read_age_seconds", "Moment of a read less the arrival of the slowest partition",
            buckets=AGE_BUCKETS_S, registry=registry,
        )  # fmt: skip
        values = Counter("tenuto_read_values", "Values read", ["state"], registry=registry)
        self.values = [values.labels(state.name.lower()) for state in State]
        errors = Counter("tenuto_read_errors", "Reads that failed", ["reason"], registry=registry)
        self.errors = {reason: errors.labels(reason) for reason in _REASONS.values()}

    def read(self, matrix: Matrix, seconds: float) -> None:
        """Account for a read."""
        self.seconds.observe(seconds)
        arrival = matrix.stamp.arrivals()
        # A partition without a record has no arrival: what that means is in the values' states.
        arrived = arrival[arrival > 0]
        if arrived.size:
            self.age.observe(max(0, matrix.as_of_ms - int(arrived.min())) / 1000.0)
        counts = np.bincount(matrix.states.reshape(-1), minlength=len(self.values))
        for counter, n in zip(self.values, counts.tolist(), strict=True):
            if n:
                counter.inc(n)

    def failed(self, error: Exception) -> None:
        """Account for a read that raised."""
        reason = next(name for kind, name in _REASONS.items() if isinstance(error, kind))
        self.errors[reason].inc()


default_metrics = once(ServingMetrics)
"""The process's metrics in Prometheus's default registry."""
