"""All scored rows, kept for intervals at the end of a replay; memory grows by 17 bytes a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenuto.trainer.metrics.scored_rows import COLUMNS, ScoredRows

_FIRST_CAPACITY = 4_096


class Predictions:
    """Scored rows in the order in which they came, in arrays that double."""

    def __init__(self) -> None:
        self._columns = {name: np.zeros(_FIRST_CAPACITY, dtype) for name, dtype in COLUMNS.items()}
        self._filled = 0

    def append(self, rows: ScoredRows) -> None:
        """Add rows."""
        stop = self._filled + len(rows)
        for name, column in rows.columns().items():
            kept = self._columns[name]
            if stop > len(kept):
                grown = np.zeros(max(stop, 2 * len(kept)), kept.dtype)
                grown[: self._filled] = kept[: self._filled]
                self._columns[name] = kept = grown
            kept[self._filled : stop] = column
        self._filled = stop

    def rows(self) -> ScoredRows:
        """The rows; not copied."""
        return ScoredRows(*(column[: self._filled] for column in self._columns.values()))

    def state(self) -> dict[str, NDArray[Any]]:
        """The rows as arrays of their own."""
        return {name: column.copy() for name, column in self.rows().columns().items()}

    def load(self, state: dict[str, NDArray[Any]]) -> None:
        """Take what :meth:`state` gave."""
        self._filled = 0
        self.append(ScoredRows.load(state))

    def __len__(self) -> int:
        return self._filled
