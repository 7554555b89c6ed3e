"""GAUC: AUC within each user, averaged over users by what they saw.

A ranker orders one user's slate, so what it says between users does not matter to anybody; AUC over
all rows also rewards knowing who clicks much (Zhu et al., *Optimized Cost per Click in Taobao
Display Advertising*, KDD 2017):

    GAUC = Σ_u w_u AUC_u / Σ_u w_u,  over users with both classes, w_u the weight of their rows
"""

from __future__ import annotations

from math import nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class GroupAucs(NamedTuple):
    """AUC of each group that has both classes, groups ascending: arrays of one length."""

    groups: NDArray[Any]
    aucs: NDArray[np.float64]
    weights: NDArray[np.float64]

    @property
    def total(self) -> tuple[float, float]:
        """Σ w AUC and Σ w: totals of several sets of rows may be added up."""
        # Not a BLAS dot product: its rounding depends on the number of threads.
        return float((self.weights * self.aucs).sum()), float(self.weights.sum())


def gauc(
    labels: ArrayLike, scores: ArrayLike, users: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """GAUC of rows; arguments as :func:`group_aucs`. NaN where no user has both classes."""
    return mean_auc(*group_aucs(labels, scores, users, weights).total)


def mean_auc(weighted: float, weight: float) -> float:
    """GAUC of added-up totals; NaN where there is no weight."""
    return weighted / weight if weight > 0.0 else nan


def group_aucs(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None
) -> GroupAucs:
    """The weighted AUC of each group, by one sort.

    Args:
        labels: ``(n,)``, 0 or 1.
        scores: ``(n,)``, no NaN.
        groups: ``(n,)``, of integers; equal ones belong together.
        weights: ``(n,)``, not negative; 1 each where None.
    """
    positive = np.asarray(labels) != 0
    score, group = np.asarray(scores), np.asarray(groups)
    weight = np.ones(len(positive)) if weights is None else np.asarray(weights, np.float64)
    if not len(positive):
        return GroupAucs(group, np.zeros(0), np.zeros(0))
    order = np.lexsort((score, group))
    positive, score, group, weight = (a[order] for a in (positive, score, group, weight))

    # A block is a group's rows of one score: ties, which count half among themselves.
    group_begins = np.concatenate([[True], group[1:] != group[:-1]])
    block_begins = group_begins.copy()
    block_begins[1:] |= score[1:] != score[:-1]
    blocks = np.flatnonzero(block_begins)
    won = np.add.reduceat(np.where(positive, weight, 0.0), blocks)
    lost = np.add.reduceat(np.where(positive, 0.0, weight), blocks)

    firsts = np.flatnonzero(group_begins[blocks])
    sizes = np.diff(firsts, append=len(blocks))
    below = np.cumsum(lost) - lost
    below -= np.repeat(below[firsts], sizes)
    wins = np.add.reduceat(won * (below + 0.5 * lost), firsts)
    mine, others = np.add.reduceat(won, firsts), np.add.reduceat(lost, firsts)
    both = (mine > 0.0) & (others > 0.0)
    names = group[blocks[firsts]]
    return GroupAucs(names[both], (wins[both] / (mine * others)[both]), (mine + others)[both])
