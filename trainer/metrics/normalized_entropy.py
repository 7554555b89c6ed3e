"""Normalized entropy: the log loss over that of always predicting the rows' own base rate.

Below 1 a model knows more than the average does; unlike the log loss it can be compared between
tasks of different base rates (He et al., *Practical Lessons from Predicting Clicks on Ads at
Facebook*, ADKDD 2014):

    NE = −Σ w (y ln p + (1 − y) ln(1 − p)) / Σ w · 1 / H(b),  b = Σ w y / Σ w,
    H(b) = −b ln b − (1 − b) ln(1 − b)
"""

from __future__ import annotations

from math import log, log1p, nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

SMALLEST = 1e-7
"""Probabilities are clipped to ``[SMALLEST, 1 − SMALLEST]``, about what float32 tells from 1."""


def normalized_entropy(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """NE of rows: labels 0 or 1, probabilities and weights, each ``(n,)``.

    Returns:
        NaN where the rows are of one class, or there are none: their base rate is certain.
    """
    marked = np.asarray(labels) != 0
    weight = np.ones(len(marked)) if weights is None else np.asarray(weights, np.float64)
    losses = cross_entropy(marked, np.asarray(probabilities))
    return entropy_ratio(float(weight @ losses), float(weight[marked].sum()), float(weight.sum()))


def cross_entropy(labels: NDArray[np.bool_], probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """The log loss of each row in nats, ``(n,) float64``; −Σ of it is the log likelihood."""
    p = np.clip(np.asarray(probabilities, np.float64), SMALLEST, 1.0 - SMALLEST)
    return np.asarray(-np.log(np.where(labels, p, 1.0 - p)))


def entropy_ratio(log_loss: float, positives: float, weight: float) -> float:
    """NE from sums: the weighted log losses, the weight of the positives and of all rows."""
    if not 0.0 < positives < weight:
        return nan
    base = positives / weight
    return log_loss / weight / -(base * log(base) + (1.0 - base) * log1p(-base))
