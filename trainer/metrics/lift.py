"""Lift: the click rate of one share of the traffic over that of another, users resampled."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tenuto.trainer.metrics.bootstrap import (
    LEVEL,
    RESAMPLES,
    Estimate,
    ratio_interval,
    sums_by_user,
    user_codes,
)


def lift(
    clicked: ArrayLike,
    users: ArrayLike,
    treated: ArrayLike,
    control: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """``(clicks / rows of treated) / (clicks / rows of control)`` and its interval.

    Requests, not users, are dealt to the shares, so a user mostly has rows in both: users are drawn
    once for both, and what a heavy clicker brings to either stays together.

    Args:
        clicked: ``(n,)``, 0 or 1, of impressed rows.
        users: ``(n,)`` codes; equal ones are one user.
        treated, control: ``(n,) bool``: rows of the one share, and of the other.
        weights: ``(n,)``; 1 each where None.
    """
    click = np.asarray(clicked, np.float64)
    weight = np.ones(len(click)) if weights is None else np.asarray(weights, np.float64)
    a, b = (weight * np.asarray(share, np.float64) for share in (treated, control))
    sums = sums_by_user(*user_codes(users), a * click, a, b * click, b)
    return ratio_interval(*sums.T, resamples=resamples, level=level, seed=seed)
