"""The loop: samples in their order, learnt batch by batch, checkpoints on a grid of event time.

What it learns, judges and publishes is a function of the samples: polls, clocks, pauses and
crashes decide only when.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec

from tenuto.trainer.intake import Intake
from tenuto.trainer.learner import BadLossError
from tenuto.trainer.model.determinism import fix
from tenuto.trainer.order import SECOND_MS
from tenuto.trainer.positions import Position, Positions
from tenuto.trainer.publishing import Publishing
from tenuto.trainer.resume import fresh, restored
from tenuto.trainer.rows import Rows
from tenuto.trainer.sample_source import SampleSource
from tenuto.trainer.schedule import AsOfSchedule, Learn, LiveSchedule, Schedule, Score
from tenuto.trainer.train_metrics import TrainMetrics
from tenuto.trainer.training import Training

logger = logging.getLogger(__name__)

_SHOW_EVERY_S = 5.0
OpenSource = Callable[[Mapping[int, Position]], SampleSource]


class TrainingError(RuntimeError):
    """Training cannot go on; says where and why."""


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
        settings, spec = training.settings, training.spec
        self._training = training
        self._metrics = metrics or TrainMetrics()
        self._publishing = Publishing(training, fix(settings.threads), self._metrics)
        saved = self._publishing.saved
        self._state = fresh(spec, settings) if saved is None else restored(spec, settings, saved)
        self._schedule = _schedule(training, self._state.progress.front_ms)
        self._positions = Positions(self._state.progress.positions)
        source = open_source(self._state.progress.positions)
        self._intake = Intake(source, spec, self._positions, settings.waiting_rows, self._metrics)
        self._stopping = threading.Event()
        self._shown_s = 0.0

    def run(self, *, until_end: bool = False) -> None:
        """Train until stopped, or until the end mark of every partition, or the last file, was
        learnt.

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
        self._intake.close()

    def step(self) -> bool:
        """Take in what has come, and do what follows from it; whether nothing more will come."""
        merge, before_ms = self._intake.merge, self._intake.merge.front_ms
        rows = self._intake.poll()
        if merge.front_ms > before_ms:
            self._pass(rows, merge.front_ms)
        over = self._intake.exhausted
        if over:
            self._end(merge.front_ms, cut=merge.ended)
        self._show(now=over)
        return over

    def _pass(self, rows: Rows | None, front_ms: int) -> None:
        """Do what the next rows of the sequence lead to, stopping at each point of the grid.

        Args:
            rows: all that arrived between the former front and this one.
            front_ms: the front.
        """
        progress, every_ms = self._state.progress, self._training.every_ms
        untold = False
        if not progress.front_ms:
            # Nothing is learnt before the first row, whatever the points until then.
            first_ms = front_ms if rows is None else int(rows.arrival_ms[0])
            progress.front_ms = first_ms // every_ms * every_ms
            untold = rows is None and progress.front_ms > 0
        next_ms = (progress.front_ms // every_ms + 1) * every_ms
        for point_ms in range(next_ms, front_ms + 1, every_ms):
            if rows is not None:
                before = int((rows.arrival_ms // SECOND_MS).searchsorted(point_ms // SECOND_MS))
                self._do(self._schedule.take(rows.slice(0, before)))
                rows = rows.slice(before, len(rows))
            self._do(self._schedule.reach(point_ms))
            progress.front_ms = point_ms
            untold = not self._publishing.publish_if_learnt(self._state)
        if untold:
            self._publishing.announce(self._state)
        if rows is not None:
            self._do(self._schedule.take(rows))

    def _end(self, front_ms: int, *, cut: bool) -> None:
        """Leave a version of all that there is.

        Args:
            front_ms: all rows that arrived before it were taken.
            cut: whether the last batch is short, for nothing can follow. Files without an end mark
                may be more tomorrow: what they leave over waits for them.
        """
        progress = self._state.progress
        # An end that lies on the grid was passed as a point of it, and still cuts the last batch.
        if not progress.ended and (cut or front_ms > progress.front_ms):
            self._do(self._schedule.end() if cut else self._schedule.reach(front_ms))
            progress.front_ms = front_ms
            progress.ended = cut
            if not self._publishing.publish_if_learnt(self._state):
                self._publishing.announce(self._state)
        self._publishing.end(self._state)

    def _do(self, steps: Iterable[Score | Learn]) -> None:
        started = time.perf_counter()
        for step in steps:
            match step:
                case Score(rows):
                    self._score(rows)
                case Learn(rows):
                    self._learn(rows)
        self._metrics.learning.inc(time.perf_counter() - started)

    def _score(self, rows: Rows) -> None:
        seen = rows.seen()
        if len(seen):
            scores = self._state.learner.predict(seen, at="logged")
            self._state.scoreboard.judge(seen, scores)

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
            progress.learnt(batch, self._training.spec)
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

    def _show(self, *, now: bool) -> None:
        """Show gauges now and then: the clock decides nothing else."""
        if now or time.monotonic() - self._shown_s >= _SHOW_EVERY_S:
            self._intake.show()
            self._metrics.show(self._state)
            self._shown_s = time.monotonic()


def _schedule(training: Training, front_ms: int) -> Schedule:
    settings = training.settings
    if settings.mode == "live":
        return LiveSchedule(settings.batch_rows)
    return AsOfSchedule(
        settings.batch_rows,
        horizon_ms=training.horizon_ms,
        lateness_ms=training.lateness_ms,
        scored_to_ms=front_ms,
    )
