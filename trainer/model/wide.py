"""The wide path: each raw value's own straight way to each head.

Its inputs are standardised by the mean and deviation of the rows learnt so far, until enough are.
(Cheng et al., *Wide & Deep Learning*, 2016.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenuto.trainer.model.tensors import take

_PARTS = ("rows", "counts", "means", "squares")


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of each column, missing values left out.

    Each column has rows of its own, so that one added later is standardised like the others.

    Attributes:
        rows: learnt so far, missing values too.
        counts, means, squares: of the values that were there; all four ``(C,) float64``.
    """

    rows: NDArray[np.float64]
    counts: NDArray[np.float64]
    means: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def empty(cls, columns: int) -> Moments:
        """Of no row."""
        return cls(*(np.zeros(columns) for _ in _PARTS))

    def add(self, values: NDArray[np.float32], enough: float = np.inf) -> Moments:
        """With ``(n, C)`` rows more (Chan et al., 1983), in columns that lack ``enough`` rows."""
        wanted = self.rows < enough
        there = np.isfinite(values) & wanted
        clean = np.where(there, values, 0.0).astype(np.float64)
        counts = there.sum(0).astype(np.float64)
        means = clean.sum(0) / np.maximum(counts, 1.0)
        squares = (np.where(there, clean - means, 0.0) ** 2).sum(0)
        total = self.counts + counts
        step = means - self.means
        share = counts / np.maximum(total, 1.0)
        return Moments(
            self.rows + np.where(wanted, len(values), 0),
            total,
            self.means + step * share,
            self.squares + squares + step**2 * self.counts * share,
        )

    def tensors(self) -> dict[str, Tensor]:
        """As ``moments.<part>`` float64."""
        return {f"moments.{part}": torch.from_numpy(getattr(self, part)) for part in _PARTS}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], columns: int) -> Moments:
        """From what was saved.

        Raises:
            TensorError: a part is missing or does not fit.
        """
        found = (take(tensors, f"moments.{p}", (columns,), torch.float64) for p in _PARTS)
        return cls(*(part.numpy().copy() for part in found))

    @property
    def inverse_deviations(self) -> NDArray[np.float64]:
        """1 / standard deviation; 0 where nothing varied yet."""
        varied = self.squares > 0.0
        squares = np.where(varied, self.squares, 1.0)
        return np.where(varied, np.sqrt(self.counts / squares), 0.0)


class Wide(nn.Module):
    """A linear map to ``heads`` logits from the sigmoids of standardised raw values.

    Starts at zero. The sigmoid is taken less ½, so that a mean value and a missing one say nothing.

    Args:
        columns: C.
        heads: T.
    """

    def __init__(self, columns: int, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, columns))
        self.means: Tensor
        self.inverse_deviations: Tensor
        self.register_buffer("means", torch.zeros(columns))
        self.register_buffer("inverse_deviations", torch.zeros(columns))

    def standardise_by(self, moments: Moments) -> None:
        """Take the means and deviations of what was learnt."""
        self.means.copy_(torch.from_numpy(moments.means))
        self.inverse_deviations.copy_(torch.from_numpy(moments.inverse_deviations))

    def forward(self, values: Tensor) -> Tensor:
        """``(n, C)`` raw values, NaN where missing, to ``(n, T)``."""
        standard = (values - self.means) * self.inverse_deviations
        return (standard.nan_to_num_(0.0).sigmoid_() - 0.5) @ self.weight.t()
