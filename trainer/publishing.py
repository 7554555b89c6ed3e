"""A trainer's versions and announcements, in their store and in its metrics."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tenuto.trainer.checkpoints.reader import CheckpointReader, Resumable
from tenuto.trainer.checkpoints.writer import Publisher
from tenuto.trainer.report import write_report
from tenuto.trainer.resume import TrainerState, checkpoint_of
from tenuto.trainer.train_metrics import TrainMetrics
from tenuto.trainer.training import Training


class Publishing:
    """Publishes one model.

    Args:
        training: of the model.
        runtime: what decides the weights' bits beside the samples.
        metrics: of this process.

    Attributes:
        saved: the newest version that was there at the start, to go on from.

    Raises:
        CheckpointError: the store cannot be read or written, or no version in it is whole.
    """

    def __init__(self, training: Training, runtime: dict[str, Any], metrics: TrainMetrics) -> None:
        settings = training.settings
        self._training = training
        self._runtime = runtime
        self._metrics = metrics
        self._publisher = Publisher(
            settings.store,
            training.model,
            keep=settings.keep,
            announcers=training.announcers,
            on_failure=lambda error: metrics.checkpoint_failures.inc(),
        )
        self.saved: Resumable | None = CheckpointReader(settings.store, training.model).newest()
        manifest = self.saved.manifest if self.saved else None
        self._publisher.recover(manifest)
        self._version = ""
        if manifest is not None:
            self._version = manifest.version
            metrics.checkpoint_time.set(manifest.front_ms / 1000.0)

    def publish_if_learnt(self, state: TrainerState) -> bool:
        """Publish a version if a batch was cut since the last; whether it was.

        Raises:
            CheckpointError: the store does not take it.
        """
        if state.progress.batches == state.progress.published:
            return False
        started = time.perf_counter()
        state.progress.published = state.progress.batches
        checkpoint = checkpoint_of(
            state,
            horizon_ms=self._training.horizon_ms,
            samples=self._training.samples,
            runtime=self._runtime,
        )
        announcement = self._publisher.publish(checkpoint)
        self._version = checkpoint.version
        self._metrics.published(checkpoint.front_ms, announcement, time.perf_counter() - started)
        self._report(state, checkpoint.metrics)
        return True

    def announce(self, state: TrainerState) -> None:
        """Say that a point of the grid was passed, and nothing new is to be had.

        Raises:
            CheckpointError: the store does not take it.
        """
        self._publisher.announce(state.progress.front_ms, self._training.horizon_ms)
        if self._version:
            # It has learnt all that there was until now.
            self._metrics.checkpoint_time.set(state.progress.front_ms / 1000.0)

    def end(self, state: TrainerState) -> None:
        """Write the final metrics file."""
        self._report(state, state.scoreboard.values(), intervals=state.scoreboard.intervals())

    def _report(self, state: TrainerState, metrics: Any, intervals: Any = None) -> None:
        if path := self._training.settings.metrics_file:
            model, version = self._training.model, self._version
            write_report(Path(path), model, version, state.progress, metrics, intervals)
