"""Intervals by resampling users: the percentile bootstrap (Efron, *Bootstrap Methods*, 1979).

Rows of one user hang together, so users are drawn with replacement and bring all their rows; rows
drawn one by one would give intervals that are too narrow (Bakshy & Eckles, *Uncertainty in Online
Experiments with Dependent Data*, KDD 2013). Draws are those of a Philox generator with the given
seed: the same rows have the same interval. Memory is bounded: draws are made in chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenuto.trainer.metrics.auc import Ranking

RESAMPLES = 1_000
LEVEL = 0.95
_CHUNK_CELLS = 1 << 20

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value and its interval.

    Attributes:
        value: of the rows as they are; NaN where it is not defined.
        low, high: the interval; NaN with fewer than two users, or where no resample has a value.
        users: how many there were to draw from.
    """

    value: float
    low: float
    high: float
    users: int


def auc_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    users: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """AUC and its interval: rows are ranked once, and each resample weighs them anew.

    Args:
        labels: ``(n,)``, 0 or 1.
        scores: ``(n,)``, no NaN.
        users: ``(n,)`` codes; equal ones are one user.
        weights: ``(n,)``, not negative; 1 each where None.
    """
    marked = np.asarray(labels) != 0
    weight = np.ones(len(marked)) if weights is None else np.asarray(weights, np.float64)
    count, user = user_codes(users)
    ranking = Ranking.of(marked, np.asarray(scores))
    values = [
        ranking.auc(weight * drawn[user])
        for draws in multiplicities(count, resamples, seed)
        for drawn in draws
    ]
    return _estimate(ranking.auc(weight), np.array(values), count, level)


def sums_interval(
    sums: Floats,
    statistic: Callable[[Floats], Floats],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Interval of whatever follows from sums over users.

    Args:
        sums: of each user, ``(users, k)``.
        statistic: from the sums of ``m`` resamples ``(m, k)`` to their values ``(m,)``.
    """
    count = len(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(sums.sum(axis=0, keepdims=True))[0])
        draws = multiplicities(count, resamples, seed)
        values = [statistic(drawn @ sums) for drawn in draws]
    return _estimate(value, np.concatenate([np.zeros(0), *values]), count, level)


def ratio_interval(
    numerator_a: ArrayLike,
    denominator_a: ArrayLike,
    numerator_b: ArrayLike,
    denominator_b: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Interval of ``(Σ numerator_a / Σ denominator_a) / (Σ numerator_b / Σ denominator_b)``.

    Args:
        numerator_a, denominator_a, numerator_b, denominator_b: of each user, ``(users,)``, in one
            order of users, since one draw decides for both. Where ``b`` has no numerator the ratio
            is infinite; where either has no denominator it is NaN.
    """
    columns = (numerator_a, denominator_a, numerator_b, denominator_b)
    sums = np.stack([np.asarray(column, np.float64) for column in columns], axis=1)
    return sums_interval(
        sums,
        lambda s: (s[:, 0] / s[:, 1]) / (s[:, 2] / s[:, 3]),
        resamples=resamples,
        level=level,
        seed=seed,
    )


def user_codes(users: ArrayLike) -> tuple[int, NDArray[np.intp]]:
    """How many users there are, and each row's number among them, ``(n,)``."""
    names, codes = np.unique(np.asarray(users), return_inverse=True)
    return len(names), codes


def sums_by_user(count: int, users: NDArray[np.intp], *columns: NDArray[Any]) -> Floats:
    """Columns ``(n,)`` added up by user, ``(count, columns) float64``."""
    return np.stack([np.bincount(users, column, count) for column in columns], axis=1)


def multiplicities(users: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each user is drawn in each resample: chunks of ``(some resamples, users)``.

    The draws do not depend on how they are cut into chunks. Nothing with fewer than two users.
    """
    if users < 2:
        return
    generator = np.random.Generator(np.random.Philox(seed))
    at_once = max(1, _CHUNK_CELLS // users)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        cells = generator.integers(0, users, size=(rows, users))
        cells += (np.arange(rows) * users)[:, None]
        counts = np.bincount(cells.ravel(), minlength=rows * users)
        yield counts.reshape(rows, users).astype(np.float64)


def _estimate(value: float, resampled: Floats, users: int, level: float) -> Estimate:
    # Resamples without a value (of one class, say) tell nothing of where it lies.
    known = resampled[~np.isnan(resampled)]
    if not len(known):
        return Estimate(value, nan, nan, users)
    # Outward order statistics: never narrower than interpolated ones, and infinity is no trouble.
    tail = (1.0 - level) / 2.0
    low = float(np.quantile(known, tail, method="lower"))
    high = float(np.quantile(known, 1.0 - tail, method="higher"))
    return Estimate(value, low, high, users)
