"""Prometheus metrics of a trainer; names and meanings are in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from tenuto.trainer.checkpoints.manifest import Announcement
from tenuto.trainer.resume import TrainerState


class TrainMetrics:
    """What a trainer counts."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.rows = Counter(
            "tenuto_trainer_rows", "Sample rows in batches, seen by the user or not",
            ["outcome"], registry=registry,
        )  # fmt: skip
        self.batches = Counter("tenuto_trainer_batches", "Batches learnt", registry=registry)
        self.bad_batches = Counter(
            "tenuto_trainer_bad_batches", "Batches set aside: a loss was not finite",
            registry=registry,
        )  # fmt: skip
        self.loss = Gauge(
            "tenuto_trainer_loss", "Loss of the last batch", ["task"], registry=registry
        )
        self.learning = Counter(
            "tenuto_trainer_learning_seconds", "Time spent scoring and learning", registry=registry
        )
        self.missing = Counter(
            "tenuto_trainer_missing_column_rows", "Sample rows that lack a column of the model",
            ["column"], registry=registry,
        )  # fmt: skip
        self.unattributed = Gauge(
            "tenuto_trainer_unattributed_rows",
            "Rows whose label happened without the task that it is given", ["task"],
            registry=registry,
        )  # fmt: skip
        self.front = Gauge(
            "tenuto_trainer_front_timestamp_seconds",
            "Snapshot arrival that all partitions have passed", registry=registry,
        )  # fmt: skip
        self.newest = Gauge(
            "tenuto_trainer_learnt_timestamp_seconds", "Newest request learnt", registry=registry
        )
        self.holds_up = Gauge(
            "tenuto_trainer_holds_up_partition", "Partition that the others wait for",
            registry=registry,
        )  # fmt: skip
        self.waiting = Gauge(
            "tenuto_trainer_waiting_rows", "Rows read that wait for other partitions",
            registry=registry,
        )  # fmt: skip
        self.lag = Gauge(
            "tenuto_consumer_lag_records", "Samples records not yet read", ["partition"],
            registry=registry,
        )  # fmt: skip
        self.missed = Gauge(
            "tenuto_trainer_missed_snapshots",
            "Snapshot offsets whose samples were deleted before they were read, since the start",
            registry=registry,
        )
        self.gaps = Gauge(
            "tenuto_trainer_gap_records",
            "Samples records left out as something is missing before them, since the start",
            registry=registry,
        )
        self.ids = Gauge(
            "tenuto_trainer_ids", "Ids with an embedding of their own", ["table"],
            registry=registry,
        )  # fmt: skip
        self.pending_ids = Gauge(
            "tenuto_trainer_pending_ids", "Ids counted that have no embedding of their own yet",
            ["table"], registry=registry,
        )  # fmt: skip
        self.refused_ids = Gauge(
            "tenuto_trainer_refused_ids",
            "Times that an id would have been admitted but for a full table",
            ["table"], registry=registry,
        )  # fmt: skip
        self.quality = Gauge(
            "tenuto_task_quality", "Metrics of a task: auc, gauc, ne, calibration and others",
            ["task", "kind", "span", "metric"], registry=registry,
        )  # fmt: skip
        self.checkpoints = Counter(
            "tenuto_trainer_checkpoints", "Versions published", registry=registry
        )
        self.checkpoint_failures = Counter(
            "tenuto_trainer_checkpoint_failures", "Tries to write or announce that failed",
            registry=registry,
        )  # fmt: skip
        self.checkpoint_seconds = Histogram(
            "tenuto_trainer_checkpoint_seconds", "Time that a checkpoint took", registry=registry,
            buckets=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
        )  # fmt: skip
        self.checkpoint_bytes = Gauge(
            "tenuto_trainer_checkpoint_bytes", "Size of the newest version", registry=registry
        )
        self.checkpoint_time = Gauge(
            "tenuto_trainer_checkpoint_timestamp_seconds",
            "Event time that the newest version has learnt up to", registry=registry,
        )  # fmt: skip

    def learnt(self, rows: int, seen: int, losses: Mapping[str, float]) -> None:
        """Account for a batch that was learnt."""
        self.batches.inc()
        self.passed(rows, seen)
        for task, loss in losses.items():
            self.loss.labels(task).set(loss)

    def passed(self, rows: int, seen: int) -> None:
        """Account for the rows of a batch."""
        self.rows.labels("impressed").inc(seen)
        self.rows.labels("not_impressed").inc(rows - seen)

    def published(self, front_ms: int, announcement: Announcement, seconds: float) -> None:
        """Account for a version."""
        self.checkpoints.inc()
        self.checkpoint_seconds.observe(seconds)
        self.checkpoint_time.set(front_ms / 1000.0)
        if announcement.manifest is not None:
            files = announcement.manifest["files"].values()
            self.checkpoint_bytes.set(sum(file["bytes"] for file in files))

    def show(self, state: TrainerState) -> None:
        """Show how far a trainer is and how good."""
        progress = state.progress
        self.newest.set(progress.newest_ts_ms / 1000.0)
        for task, count in progress.unattributed.items():
            self.unattributed.labels(task).set(count)
        for table in state.learner.tables:
            self.ids.labels(table.name).set(table.rows - 1)
            self.pending_ids.labels(table.name).set(table.dictionary.pending)
            self.refused_ids.labels(table.name).set(table.dictionary.refused)
        for kind, tasks in state.scoreboard.values().items():
            for task, spans in tasks.items():
                for span, metrics in spans.items():
                    for metric, value in metrics.items():
                        self.quality.labels(task, kind, span, metric).set(value)
