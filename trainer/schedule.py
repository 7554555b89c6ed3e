"""When rows are scored and when they are learnt: a function of their sequence alone.

Pure. Rows come in the canonical order, whole seconds at a time; steps come out in the order in
which they are to be done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tenuto.trainer.batching import Batcher
from tenuto.trainer.order import SECOND_MS
from tenuto.trainer.rows import Rows


@dataclass(frozen=True)
class Score:
    """Score these rows for ``as_of``."""

    rows: Rows


@dataclass(frozen=True)
class Learn:
    """Learn this mini-batch."""

    rows: Rows


class LateRequestError(ValueError):
    """A snapshot that arrived later after its request than it could; names it."""


class Schedule(Protocol):
    """What becomes of the sequence."""

    def take(self, rows: Rows) -> Iterator[Score | Learn]:
        """What these rows lead to; iterate to the end before the next call."""
        ...

    def reach(self, point_ms: int) -> Iterator[Score | Learn]:
        """What is to be done once all rows that arrived before a point were taken."""
        ...

    def end(self) -> Iterator[Score | Learn]:
        """What is left when no row can follow: the last batch may be short."""
        ...


class LiveSchedule:
    """Each batch is learnt as soon as it is whole; its rows are scored on the way (``next``).

    Args:
        batch_rows: see :class:`Batcher`.
    """

    def __init__(self, batch_rows: int) -> None:
        self._batcher = Batcher(batch_rows)

    def take(self, rows: Rows) -> Iterator[Score | Learn]:
        return map(Learn, self._batcher.add(rows))

    def reach(self, point_ms: int) -> Iterator[Score | Learn]:
        return iter(())

    def end(self) -> Iterator[Score | Learn]:
        batch = self._batcher.flush()
        return iter(()) if batch is None else iter((Learn(batch),))


class AsOfSchedule:
    """A row is scored when it arrives, and learnt when a ranker could have known its labels.

    A batch is learnt before a second is scored only if each of its labels was final at every
    request of that second and of all later ones: ``request_ts + H`` of its newest row lies before
    the earliest request that can still arrive, the second less the snapshots' lateness.

    Args:
        batch_rows: see :class:`Batcher`; also the rows scored at once.
        horizon_ms: H of the sample stream.
        lateness_ms: longest time from a request to its snapshot's arrival.
        scored_to_ms: rows that arrived before it were scored already; they are only learnt.
    """

    def __init__(
        self, batch_rows: int, *, horizon_ms: int, lateness_ms: int, scored_to_ms: int = 0
    ) -> None:
        self._learning = Batcher(batch_rows)
        self._scoring = Batcher(batch_rows)
        self._waiting: deque[tuple[int, Rows]] = deque()
        self._horizon_ms = horizon_ms
        self._lateness_ms = lateness_ms
        self._scored_to_ms = scored_to_ms

    def take(self, rows: Rows) -> Iterator[Score | Learn]:
        for batch in self._learning.add(rows):
            self._wait(batch)
        second_ms = rows.arrival_ms // SECOND_MS * SECOND_MS
        done = int(np.searchsorted(second_ms, self._scored_to_ms))
        self._check(rows.slice(done, len(rows)))
        while done < len(rows):
            stop = len(rows)
            if self._waiting:
                stop = int(np.searchsorted(second_ms, self._waiting[0][0], side="right"))
            yield from map(Score, self._scoring.add(rows.slice(done, max(stop, done))))
            done = max(stop, done)
            if done < len(rows):
                yield from self.reach(int(second_ms[done]))

    def reach(self, point_ms: int) -> Iterator[Score | Learn]:
        yield from self._score_rest()
        while self._waiting and self._waiting[0][0] < point_ms:
            yield Learn(self._waiting.popleft()[1])

    def end(self) -> Iterator[Score | Learn]:
        yield from self._score_rest()
        if (batch := self._learning.flush()) is not None:
            self._wait(batch)
        while self._waiting:
            yield Learn(self._waiting.popleft()[1])

    def _wait(self, batch: Rows) -> None:
        known_ms = int(batch.request_ts_ms.max()) + self._horizon_ms + self._lateness_ms
        self._waiting.append((known_ms, batch))

    def _score_rest(self) -> Iterator[Score]:
        if (rows := self._scoring.flush()) is not None:
            yield Score(rows)

    def _check(self, rows: Rows) -> None:
        late = rows.arrival_ms - rows.request_ts_ms > self._lateness_ms
        if late.any():
            first = int(late.argmax())
            raise LateRequestError(
                f"snapshots[{rows.partition[first]}]@{rows.offset[first]}: arrived "
                f"{rows.arrival_ms[first] - rows.request_ts_ms[first]} ms after its request, later "
                f"than {self._lateness_ms} ms: train with the [time] settings of the joiner"
            )
