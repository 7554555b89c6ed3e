"""The newest rows, kept as they are: exact metrics of lately."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenuto.trainer.metrics.auc import auc
from tenuto.trainer.metrics.gauc import gauc
from tenuto.trainer.metrics.score_sums import ScoreSums
from tenuto.trainer.metrics.scored_rows import COLUMNS, ScoredRows


class Window:
    """The last ``size`` rows in a ring; updating copies them in, reading computes.

    Args:
        size: rows; 17 bytes each.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"window of {size} rows: must be ≥ 1")
        self.size = size
        self._ring = {name: np.zeros(size, dtype) for name, dtype in COLUMNS.items()}
        self._next = 0
        self._filled = 0

    def update(self, rows: ScoredRows) -> None:
        """Add rows, newest last; the oldest leave."""
        rows = rows.slice(max(0, len(rows) - self.size))
        first = min(len(rows), self.size - self._next)
        for name, column in rows.columns().items():
            self._ring[name][self._next : self._next + first] = column[:first]
            self._ring[name][: len(rows) - first] = column[first:]
        self._next = (self._next + len(rows)) % self.size
        self._filled = min(self.size, self._filled + len(rows))

    def rows(self, newest: int | None = None) -> ScoredRows:
        """The rows, oldest first, or only the newest ones; a copy."""
        count = len(self) if newest is None else min(newest, len(self))
        at = np.arange(self._next - count, self._next) % self.size
        return ScoredRows(*(column[at] for column in self._ring.values()))

    def values(self) -> dict[str, float]:
        """Metrics by name; NaN where they are not defined. Sorts the window twice."""
        rows = self.rows()
        return {
            **ScoreSums.of(rows).values(),
            "auc": auc(rows.labels, rows.scores, rows.weights),
            "gauc": gauc(rows.labels, rows.scores, rows.users, rows.weights),
        }

    def state(self) -> dict[str, NDArray[Any]]:
        """Its rows, oldest first."""
        return self.rows().columns()

    def load(self, state: dict[str, NDArray[Any]]) -> None:
        """Take what :meth:`state` gave, also of a window of another size."""
        self._next = self._filled = 0
        self.update(ScoredRows.load(state))

    def __len__(self) -> int:
        return self._filled
