"""The loop: samples in their order, learnt batch by batch, checkpoints on a grid of event time.

What it learns, judges and publishes is a function of the samples: polls, clocks, pauses and
crashes decide only when.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tenuto.features.durations import duration_ms
from tenuto.trainer.checkpoints.announcer import Announcer
from tenuto.trainer.checkpoints.manifest import Origin
from tenuto.trainer.checkpoints.reader import CheckpointReader
from tenuto.trainer.checkpoints.writer import Publisher
from tenuto.trainer.learner import BadLossError
from tenuto.trainer.order import SECOND_MS, Merge
from tenuto.trainer.positions import Position, Positions
from tenuto.trainer.report import write_report
from tenuto.trainer.resume import checkpoint_of, fix_runtime, fresh, restored
from tenuto.trainer.rows import Rows, SchemaError, missing_columns, rows_of
from tenuto.trainer.sample_source import Read, SampleSource
from tenuto.trainer.schedule import AsOfSchedule, Learn, LiveSchedule, Schedule, Score
from tenuto.trainer.spec import ModelSpec
from tenuto.trainer.train_metrics import TrainMetrics
from tenuto.trainer.train_settings import TrainSettings

logger = logging.getLogger(__name__)

_SHOW_EVERY_S = 2.0
OpenSource = Callable[[Mapping[int, Position]], SampleSource]


class TrainingError(RuntimeError):
    """Training cannot go on; says where and why."""


@dataclass(frozen=True)
class Training:
    """What is to be trained, on what.

    Attributes:
        spec: of the model.
        settings: of the trainer.
        model: its name in the store.
        samples: what is learnt from; a model learns from one log.
        horizon_ms: H of the sample stream.
        lateness_ms: longest time from a request to its snapshot's arrival, of the joiner's rules.
        announcers: told of checkpoints, beside the store's own feed.
    """

    spec: ModelSpec
    settings: TrainSettings
    model: str
    samples: Origin
    horizon_ms: int
    lateness_ms: int
    announcers: Sequence[Announcer] = ()


class Trainer:
    """Learns one model from one sample stream, from the newest checkpoint on.

    Args:
        training: what is to be trained.
        open_source: gives the samples from these positions on.
        metrics: of this process.

    Raises:
        CheckpointError: the store cannot be read, or no checkpoint in it is whole.
        ModeError, ValueError: the checkpoint is not one that this model can go on from.
        SampleTopicError, SampleFilesError: there are no such samples.
    """

    def __init__(
        self,
        training: Training,
        open_source: OpenSource,
        metrics: TrainMetrics | None = None,
    ) -> None:
        self._training = training
        self._metrics = metrics or TrainMetrics()
        settings, spec = training.settings, training.spec
        self._every_ms = _grid(settings.checkpoint_every)
        self._runtime = fix_runtime(settings.threads)
        self._publisher = Publisher(
            settings.store,
            training.model,
            keep=settings.keep,
            announcers=training.announcers,
            on_failure=lambda error: self._metrics.checkpoint_failures.inc(),
        )
        saved = CheckpointReader(settings.store, training.model).newest()
        self._publisher.recover(saved.manifest if saved else None)
        self._state = fresh(spec, settings) if saved is None else restored(spec, settings, saved)
        self._version = saved.manifest.version if saved else ""
        self._spec = spec
        self._positions = Positions(self._state.progress.positions)
        self._schedule = self._make_schedule()
        self._source = open_source(self._state.progress.positions)
        self._merge = Merge(self._source.partitions)
        self._lacking: set[str] = set()
        self._stopping = threading.Event()
        self._shown_s = 0.0

    def run(self, *, until_end: bool = False) -> None:
        """Train until stopped, or until the end mark of every partition was learnt.

        Raises:
            TrainingError: too many batches in a row could not be learnt.
            SchemaError: the samples are not those that the model is of.
            OrderError, SampleTopicError, SampleFilesError: the samples are damaged; where.
            CheckpointError: the store does not take a checkpoint.
        """
        while not self._stopping.is_set():
            if self.step():
                break
        if not until_end:
            self._stopping.wait()

    def stop(self) -> None:
        """Make ``run`` return soon; what no checkpoint has is learnt again by the next start."""
        self._stopping.set()

    def close(self) -> None:
        """Let go of the samples."""
        self._source.close()

    def step(self) -> bool:
        """Take in what has come, and do what follows from it; whether the end was reached."""
        most = self._training.settings.waiting_rows // len(self._source.partitions)
        for read in self._source.poll(self._merge.ahead(most)):
            self._take(read)
        before_ms = self._merge.front_ms
        rows = self._merge.close()
        if self._merge.front_ms > before_ms:
            self._pass(rows, self._merge.front_ms)
        if self._merge.ended:
            self._end()
        self._show()
        return self._merge.ended

    def _take(self, read: Read) -> None:
        rows = None
        if read.rows is not None:
            try:
                rows = rows_of(read.rows, self._spec)
            except SchemaError as error:
                raise SchemaError(f"{read.place}: {error}") from error
            self._count_missing(read)
            if len(rows):
                self._positions.came(read.partition, read.record, int(rows.offset[-1]))
        self._merge.add(read.partition, rows, read.arrival_ms, ended=read.is_end, place=read.place)

    def _pass(self, rows: Rows | None, front_ms: int) -> None:
        """Learn what the next rows of the sequence complete, stopping at each point of the grid.

        Args:
            rows: all that arrived between the former front and this one.
            front_ms: the front.
        """
        progress = self._state.progress
        first_ms = progress.front_ms
        if not first_ms:
            # Nothing was learnt before the first row, whatever the points until then.
            until_ms = front_ms if rows is None else int(rows.arrival_ms[0])
            first_ms = until_ms // self._every_ms * self._every_ms
            progress.front_ms = first_ms
            if rows is None and first_ms:
                self._announce()
        untold = False
        for point_ms in range(first_ms + self._every_ms, front_ms + 1, self._every_ms):
            if rows is not None:
                before = int((rows.arrival_ms // SECOND_MS).searchsorted(point_ms // SECOND_MS))
                self._do(self._schedule.take(rows.slice(0, before)))
                rows = rows.slice(before, len(rows))
            self._do(self._schedule.reach(point_ms))
            progress.front_ms = point_ms
            untold = not self._publish_if_learnt()
        if untold:
            self._announce()
        if rows is not None:
            self._do(self._schedule.take(rows))

    def _end(self) -> None:
        progress = self._state.progress
        if not progress.ended:
            self._do(self._schedule.end())
            progress.front_ms = self._merge.front_ms
            progress.ended = True
            if not self._publish_if_learnt():
                self._announce()
        self._report(final=True)

    def _do(self, steps: Iterable[Score | Learn]) -> None:
        started = time.perf_counter()
        for step in steps:
            match step:
                case Score(rows):
                    seen = rows.seen()
                    if len(seen):
                        scores = self._state.learner.predict(seen, at="logged")
                        self._state.scoreboard.judge(seen, scores)
                case Learn(rows):
                    self._learn(rows)
        self._metrics.learning.inc(time.perf_counter() - started)

    def _learn(self, batch: Rows) -> None:
        progress, seen = self._state.progress, batch.seen()
        newest_ts_ms = max(progress.newest_ts_ms, int(batch.request_ts_ms.max()))
        try:
            losses, scores = self._state.learner.learn_scored(
                seen, batch=progress.batches, newest_ts_ms=newest_ts_ms
            )
        except BadLossError as error:
            self._set_aside(batch, error)
        else:
            if progress.mode == "live" and len(seen):
                self._state.scoreboard.judge(seen, scores)
            progress.learnt(batch, self._spec)
            self._metrics.learnt(len(batch), len(seen), losses)
        self._positions.learnt(batch)
        progress.positions = dict(self._positions.now)

    def _set_aside(self, batch: Rows, error: BadLossError) -> None:
        progress = self._state.progress
        bad = progress.set_aside(batch, str(error))
        self._metrics.bad_batches.inc()
        self._metrics.passed(len(batch), int(batch.impressed.sum()))
        logger.error("batch set aside: %s", msgspec.json.encode(bad).decode())
        if progress.bad_in_a_row > self._training.settings.max_bad_batches:
            raise TrainingError(
                f"{progress.bad_in_a_row} batches in a row could not be learnt; the last one: "
                f"{error}, snapshots {bad.snapshots}: look at their values with `tenuto inspect`, "
                "or go back to an earlier checkpoint"
            )

    def _publish_if_learnt(self) -> bool:
        """Publish a version if a batch was cut since the last; whether it was."""
        state, training = self._state, self._training
        if state.progress.batches == state.progress.published:
            return False
        state.progress.published = state.progress.batches
        started = time.perf_counter()
        checkpoint = checkpoint_of(
            state,
            horizon_ms=training.horizon_ms,
            samples=training.samples,
            runtime=self._runtime,
        )
        announcement = self._publisher.publish(checkpoint)
        self._version = checkpoint.version
        self._metrics.checkpoints.inc()
        self._metrics.checkpoint_seconds.observe(time.perf_counter() - started)
        self._metrics.checkpoint_time.set(checkpoint.front_ms / 1000.0)
        if announcement.manifest is not None:
            files = announcement.manifest["files"].values()
            self._metrics.checkpoint_bytes.set(sum(file["bytes"] for file in files))
        self._report()
        return True

    def _announce(self) -> None:
        self._publisher.announce(self._state.progress.front_ms, self._training.horizon_ms)

    def _make_schedule(self) -> Schedule:
        settings, progress = self._training.settings, self._state.progress
        if settings.mode == "live":
            return LiveSchedule(settings.batch_rows)
        return AsOfSchedule(
            settings.batch_rows,
            horizon_ms=self._training.horizon_ms,
            lateness_ms=self._training.lateness_ms,
            scored_to_ms=progress.front_ms,
        )

    def _count_missing(self, read: Read) -> None:
        assert read.rows is not None
        for column in missing_columns(read.rows.schema, self._spec):
            self._metrics.missing.labels(column).inc(read.rows.num_rows)
            if column not in self._lacking:
                self._lacking.add(column)
                logger.warning("%s: samples lack column %r: missing there", read.place, column)

    def _show(self) -> None:
        """Show gauges now and then: the clock decides nothing else."""
        now_s = time.monotonic()
        if now_s - self._shown_s < _SHOW_EVERY_S and not self._merge.ended:
            return
        self._shown_s = now_s
        metrics, merge = self._metrics, self._merge
        metrics.front.set(merge.front_ms / 1000.0)
        metrics.holds_up.set(merge.holds_up)
        metrics.waiting.set(merge.waiting)
        for partition, lag in self._source.lag().items():
            metrics.lag.labels(partition).set(lag)
        metrics.show(self._state)

    def _report(self, *, final: bool = False) -> None:
        if path := self._training.settings.metrics_file:
            write_report(Path(path), self._training.model, self._version, self._state, final=final)


def _grid(every: str) -> int:
    every_ms = duration_ms(every)
    if every_ms <= 0 or every_ms % SECOND_MS:
        raise ValueError(f"checkpoint_every: {every!r}: must be whole seconds, and more than none")
    return every_ms
