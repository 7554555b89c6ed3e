"""Adagrad with one accumulator per row of a table: sparse, and small beside the rows.

As in FBGEMM and Monolith (Liu et al., 2022): a row's rate falls with its own past gradients only,
so a rare id learns fast and a frequent one stays calm.
"""

from __future__ import annotations

from torch import Tensor


def step(
    weights: Tensor,
    accumulators: Tensor,
    rows: Tensor,
    gradients: Tensor,
    rate: float,
    floor: float,
) -> None:
    """Update some rows of a table in place.

    Args:
        weights: ``(capacity, size)``.
        accumulators: ``(capacity,)``, sums of each row's mean squared gradients.
        rows: ``(m,) int64``, all different.
        gradients: ``(m, size)``, each row's summed over the batch.
        rate: learning rate.
        floor: added to an accumulator before its root, so that the first steps are not the largest.
    """
    sums = accumulators.index_select(0, rows) + gradients.square().mean(1)
    accumulators.index_copy_(0, rows, sums)
    scale = rate * (sums + floor).rsqrt()
    weights.index_add_(0, rows, gradients * scale.unsqueeze(1), alpha=-1.0)
