"""Losses as pure functions of logits; means weighted by row.

The product of two probabilities stays in log space (ESMM, Ma et al., SIGIR 2018): it neither
underflows nor saturates.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def binary_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean log loss of ``sigmoid(logits)``.

    Args:
        logits: ``(n,)``.
        labels: ``(n,)``, 0 or 1, of the logits' dtype.
        weights: ``(n,)`` ≥ 0, of a sum > 0.
    """
    losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return _mean(losses, weights)


def joint_loss(given: Tensor, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean log loss of ``sigmoid(given) sigmoid(logits)``: both happened.

    Args: as for :func:`binary_loss`, of the head that must have happened first and of this one.
    """
    losses = -(labels * log_joint(given, logits) + (1 - labels) * log_not_joint(given, logits))
    return _mean(losses, weights)


def log_joint(given: Tensor, logits: Tensor) -> Tensor:
    """``log(p q)`` with ``p = sigmoid(given)``, ``q = sigmoid(logits)``."""
    return functional.logsigmoid(given) + functional.logsigmoid(logits)


def log_not_joint(given: Tensor, logits: Tensor) -> Tensor:
    """``log(1 - p q)``, as ``log((1 - p) + p (1 - q))``.

    That sum has no cancellation, which ``log(-expm1(log(p q)))`` has where p q is near 1.
    """
    first = functional.logsigmoid(-given)
    second = functional.logsigmoid(given) + functional.logsigmoid(-logits)
    return torch.logaddexp(first, second)


def _mean(losses: Tensor, weights: Tensor) -> Tensor:
    return (losses * weights).sum() / weights.sum()
