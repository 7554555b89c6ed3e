"""Sums over scored rows, of which normalized entropy and calibration follow exactly."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import nan

import numpy as np
from numpy.typing import NDArray

from tenuto.trainer.metrics.calibration import calibration_ratio
from tenuto.trainer.metrics.normalized_entropy import cross_entropy, entropy_ratio
from tenuto.trainer.metrics.scored_rows import ScoredRows


@dataclass(frozen=True, slots=True)
class ScoreSums:
    """Sums of rows; those of two sets of rows may be added.

    Attributes:
        rows: how many.
        weight: of all rows.
        positives: weight of the rows with label 1.
        predicted: of the weighted probabilities.
        log_loss: of the weighted log losses, in nats.
    """

    rows: float = 0.0
    weight: float = 0.0
    positives: float = 0.0
    predicted: float = 0.0
    log_loss: float = 0.0

    @classmethod
    def of(cls, rows: ScoredRows) -> ScoreSums:
        """Sums of these rows."""
        marked = rows.labels != 0
        weight = rows.weights.astype(np.float64)
        return cls(
            float(len(rows)),
            float(weight.sum()),
            float(weight[marked].sum()),
            float((weight * rows.scores).sum()),
            float((weight * cross_entropy(marked, rows.scores)).sum()),
        )

    @classmethod
    def load(cls, array: NDArray[np.float64]) -> ScoreSums:
        """What :meth:`array` gave."""
        return cls(*array.tolist())

    def array(self) -> NDArray[np.float64]:
        """The sums in order, ``(5,) float64``."""
        return np.array([getattr(self, field.name) for field in fields(self)])

    def __add__(self, other: ScoreSums) -> ScoreSums:
        return ScoreSums.load(self.array() + other.array())

    def values(self) -> dict[str, float]:
        """What follows from them; NaN where it is not defined."""
        weight = self.weight if self.weight > 0.0 else nan
        return {
            "rows": self.rows,
            "base_rate": self.positives / weight,
            "log_loss": self.log_loss / weight,
            "ne": entropy_ratio(self.log_loss, self.positives, self.weight),
            "calibration": calibration_ratio(self.predicted, self.positives),
        }
