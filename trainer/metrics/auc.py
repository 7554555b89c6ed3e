"""AUC: the probability that a positive row is scored above a negative one, ties counting half.

It is the Mann-Whitney statistic over all pairs (Hanley & McNeil, *The Meaning and Use of the Area
under a ROC Curve*, Radiology 1982; Fawcett, *An Introduction to ROC Analysis*, 2006):

    AUC = Σ_{i positive, j negative} w_i w_j ([s_i > s_j] + ½ [s_i = s_j]) / (Σ w_i · Σ w_j)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The exact weighted AUC.

    Args:
        labels: ``(n,)``, 0 or 1.
        scores: ``(n,)``, of any scale, no NaN.
        weights: ``(n,)``, not negative; 1 each where None.

    Returns:
        NaN where there are no two classes with a weight above 0.
    """
    marked = np.asarray(labels) != 0
    w = np.ones(len(marked)) if weights is None else np.asarray(weights, np.float64)
    return Ranking.of(marked, np.asarray(scores)).auc(w)


@dataclass(frozen=True)
class Ranking:
    """The order of rows by score, found once and good for many weightings of the same rows.

    Attributes:
        positive: row numbers of the positives in score order, ``(p,)``.
        negative: row numbers of the negatives in score order.
        below: how many of ``negative`` have a smaller score than each positive, ``(p,)``.
        up_to: how many have a smaller or the same, ``(p,)``.
    """

    positive: NDArray[np.intp]
    negative: NDArray[np.intp]
    below: NDArray[np.intp]
    up_to: NDArray[np.intp]

    @classmethod
    def of(cls, labels: NDArray[np.bool_], scores: NDArray[Any]) -> Ranking:
        """Rank rows: labels ``(n,) bool``, scores ``(n,)``."""
        positive, negative = np.flatnonzero(labels), np.flatnonzero(~labels)
        positive = positive[np.argsort(scores[positive], kind="stable")]
        negative = negative[np.argsort(scores[negative], kind="stable")]
        low, high = scores[negative], scores[positive]
        return cls(
            positive,
            negative,
            np.searchsorted(low, high, side="left"),
            np.searchsorted(low, high, side="right"),
        )

    def auc(self, weights: NDArray[np.float64]) -> float:
        """AUC of the rows with these weights, ``(n,)``; NaN without two classes."""
        won = np.zeros(len(self.negative) + 1)
        np.cumsum(weights[self.negative], out=won[1:])
        mine = weights[self.positive]
        pairs = float(mine.sum()) * float(won[-1])
        if not pairs > 0.0:
            return nan
        # Not a BLAS dot product: its rounding depends on the number of threads.
        return float((mine * (won[self.below] + won[self.up_to])).sum()) / (2.0 * pairs)


def auc_of_counts(
    positives: NDArray[np.float64], negatives: NDArray[np.float64]
) -> tuple[float, float]:
    """AUC of rows of which only the bin of their score is known, bins in ascending order.

    Pairs that share a bin count half, so the true value lies within half their share.

    Args:
        positives, negatives: weight of the rows of each class, ``(bins,)``.

    Returns:
        AUC and the most that it can be off by; NaN twice where there are no two classes.
    """
    pairs = float(positives.sum()) * float(negatives.sum())
    if not pairs > 0.0:
        return nan, nan
    below = np.cumsum(negatives) - negatives
    together = float((positives * negatives).sum())
    return (float((positives * below).sum()) + 0.5 * together) / pairs, 0.5 * together / pairs
