"""Calibration: what was predicted over what happened; 1 on average is right.

    calibration = Σ w p / Σ w y

(He et al., *Practical Lessons from Predicting Clicks on Ads at Facebook*, ADKDD 2014.) It says
nothing about order: always predicting the base rate has 1.
"""

from __future__ import annotations

from math import nan

import numpy as np
from numpy.typing import ArrayLike


def calibration(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """Calibration of rows: labels 0 or 1, probabilities and weights, each ``(n,)``.

    Returns:
        NaN where there is no positive.
    """
    marked = np.asarray(labels) != 0
    weight = np.ones(len(marked)) if weights is None else np.asarray(weights, np.float64)
    predicted = float(weight @ np.asarray(probabilities, np.float64))
    return calibration_ratio(predicted, float(weight[marked].sum()))


def calibration_ratio(predicted: float, positives: float) -> float:
    """Calibration from sums: of the weighted probabilities, and of the positives' weights."""
    return predicted / positives if positives > 0.0 else nan
