"""Rows that have a score and a label: what every metric takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

COLUMNS = {"labels": np.uint8, "scores": np.float32, "users": np.int64, "weights": np.float32}


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Columns of one length.

    Attributes:
        labels: 0 or 1, ``(n,) uint8``.
        scores: probabilities, ``(n,) float32``.
        users: codes, ``(n,) int64``; equal ones are one user, and nothing else is asked of them, so
            a 64-bit hash of the user id does.
        weights: above 0, ``(n,) float32``.
    """

    labels: NDArray[np.uint8]
    scores: NDArray[np.float32]
    users: NDArray[np.int64]
    weights: NDArray[np.float32]

    @classmethod
    def of(
        cls, labels: ArrayLike, scores: ArrayLike, users: ArrayLike, weights: ArrayLike
    ) -> tuple[ScoredRows, int]:
        """The rows that count, and how many were left out for their score.

        Rows without weight are no part of a metric. Of the others, a score that is NaN (a request
        that was served without it) or no probability is left out and counted.

        Raises:
            ValueError: columns of different lengths.
        """
        given = zip((labels, scores, users, weights), COLUMNS.values(), strict=True)
        columns: list[NDArray[Any]] = [np.asarray(column, dtype) for column, dtype in given]
        if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
            shapes = ", ".join(
                f"{name} {column.shape}" for name, column in zip(COLUMNS, columns, strict=True)
            )
            raise ValueError(f"scored rows: columns must be (n,), of one length: {shapes}")
        weighed = (columns[3] > 0.0) & (columns[3] < np.inf)
        counted = weighed & (columns[1] >= 0.0) & (columns[1] <= 1.0)
        skipped = np.count_nonzero(weighed) - np.count_nonzero(counted)
        if not counted.all():
            columns = [column[counted] for column in columns]
        return cls(*columns), int(skipped)

    @classmethod
    def none(cls) -> ScoredRows:
        """No rows."""
        return cls(*(np.zeros(0, dtype) for dtype in COLUMNS.values()))

    @classmethod
    def load(cls, columns: dict[str, NDArray[Any]]) -> ScoredRows:
        """What :meth:`columns` gave."""
        return cls(**{name: np.asarray(columns[name], dtype) for name, dtype in COLUMNS.items()})

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns by name."""
        return {name: getattr(self, name) for name in COLUMNS}

    def slice(self, start: int, stop: int | None = None) -> ScoredRows:
        """Some consecutive rows; not copied."""
        return ScoredRows(*(column[start:stop] for column in self.columns().values()))

    def __len__(self) -> int:
        return len(self.labels)
