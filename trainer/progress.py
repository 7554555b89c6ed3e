"""How far a trainer has come: the part of a checkpoint that is neither weights nor metrics.

A function of the samples, like the weights: nothing here depends on polls or clocks.
"""

from __future__ import annotations

from typing import Any, Self

import msgspec

from tenuto.trainer.positions import Position
from tenuto.trainer.rows import Rows, unattributed
from tenuto.trainer.spec import ModelSpec
from tenuto.trainer.train_settings import Mode

_KEPT_BAD = 100


class BadBatch(msgspec.Struct, frozen=True):
    """A batch that was set aside.

    Attributes:
        batch: its number.
        snapshots: first and last snapshot offset, by partition.
        reason: the error.
    """

    batch: int
    snapshots: dict[str, tuple[int, int]]
    reason: str


class Progress(msgspec.Struct):
    """Both fronts and what lies behind them.

    Attributes:
        mode: of the trainer; one model has one.
        batches: cut so far, those set aside included; the next one's number.
        rows, seen_rows: of these batches; with an impression.
        newest_ts_ms: newest request in them.
        learnt_ms: oldest and newest request learnt.
        front_ms: point of the grid, or the end, that was reached: all rows that arrived before it
            were taken, and in ``as_of`` scored.
        published: batches in the newest version.
        ended: whether the samples' end was reached.
        positions: where to go on learning, by partition.
        bad_batches: number of batches set aside.
        bad_in_a_row: the last ones, without one that was learnt in between.
        bad: the newest of them.
        unattributed: rows by task whose label happened without the task that it is given; they
            are learnt as not happened.
    """

    mode: Mode
    batches: int = 0
    rows: int = 0
    seen_rows: int = 0
    newest_ts_ms: int = 0
    learnt_ms: tuple[int, int] | None = None
    front_ms: int = 0
    published: int = 0
    ended: bool = False
    positions: dict[int, Position] = {}
    bad_batches: int = 0
    bad_in_a_row: int = 0
    bad: list[BadBatch] = []
    unattributed: dict[str, int] = {}

    def learnt(self, batch: Rows, spec: ModelSpec) -> None:
        """A batch was learnt."""
        self._passed(batch)
        self.bad_in_a_row = 0
        oldest, newest = int(batch.request_ts_ms.min()), int(batch.request_ts_ms.max())
        before = self.learnt_ms or (oldest, newest)
        self.learnt_ms = min(before[0], oldest), max(before[1], newest)
        for index, head in enumerate(spec.heads):
            if head.given is not None:
                count = self.unattributed.get(head.name, 0)
                self.unattributed[head.name] = count + unattributed(batch, spec.heads, index)

    def set_aside(self, batch: Rows, reason: str) -> BadBatch:
        """A batch was not learnt, and will not be."""
        snapshots = {}
        for partition in sorted(set(batch.partition.tolist())):
            offsets = batch.offset[batch.partition == partition]
            snapshots[str(partition)] = (int(offsets[0]), int(offsets[-1]))
        bad = BadBatch(self.batches, snapshots, reason)
        self._passed(batch)
        self.bad_batches += 1
        self.bad_in_a_row += 1
        self.bad = [*self.bad, bad][-_KEPT_BAD:]
        return bad

    def _passed(self, batch: Rows) -> None:
        self.batches += 1
        self.rows += len(batch)
        self.seen_rows += int(batch.impressed.sum())
        self.newest_ts_ms = max(self.newest_ts_ms, int(batch.request_ts_ms.max()))

    def state(self) -> dict[str, Any]:
        """As JSON."""
        found: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return found

    @classmethod
    def load(cls, state: dict[str, Any]) -> Self:
        """What :meth:`state` gave."""
        return msgspec.convert(state, cls, str_keys=True, strict=False)
