"""Metrics of scored rows with their intervals, users resampled: the verdict of a replay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tenuto.trainer.metrics.bootstrap import (
    LEVEL,
    RESAMPLES,
    Estimate,
    auc_interval,
    sums_by_user,
    sums_interval,
    user_codes,
)
from tenuto.trainer.metrics.gauc import group_aucs
from tenuto.trainer.metrics.normalized_entropy import cross_entropy
from tenuto.trainer.metrics.scored_rows import ScoredRows

Floats = NDArray[np.float64]


def intervals(
    rows: ScoredRows, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> dict[str, Estimate]:
    """AUC, GAUC, normalized entropy and calibration of rows, each with its interval.

    All come from the same draws of users. Time is that of ``resamples`` passes over the rows.
    """
    weight = rows.weights.astype(np.float64)
    marked = rows.labels != 0
    count, users = user_codes(rows.users)
    losses = weight * cross_entropy(marked, rows.scores)
    sums = sums_by_user(count, users, losses, weight * marked, weight, weight * rows.scores)
    within = group_aucs(rows.labels, rows.scores, users, weight)
    of_users = np.zeros((count, 2))
    of_users[within.groups] = np.stack([within.weights * within.aucs, within.weights], axis=1)

    def by_sums(table: Floats, statistic: Callable[[Floats], Floats]) -> Estimate:
        return sums_interval(table, statistic, resamples=resamples, level=level, seed=seed)

    return {
        "auc": auc_interval(
            rows.labels, rows.scores, users, weight, resamples=resamples, level=level, seed=seed
        ),
        "gauc": by_sums(of_users, lambda s: s[:, 0] / s[:, 1]),
        "ne": by_sums(sums, _entropy_ratios),
        "calibration": by_sums(sums, lambda s: s[:, 3] / np.where(s[:, 1] > 0, s[:, 1], np.nan)),
    }


def _entropy_ratios(sums: Floats) -> Floats:
    """Normalized entropy of each resample's sums; NaN where they are of one class."""
    losses, positives, weight = sums[:, 0], sums[:, 1], sums[:, 2]
    base = np.where((positives > 0) & (positives < weight), positives / weight, np.nan)
    entropy = -(base * np.log(base) + (1.0 - base) * np.log1p(-base))
    return np.asarray(losses / weight / entropy)
