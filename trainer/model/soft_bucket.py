"""Soft buckets: a raw value as a mix of the two learnt rows next to it, a missing one as its own.

``z`` of a value (see :class:`tenuto.trainer.spec.Transform`) lies in ``[0, K]``; its embedding is
``(1 - frac z) E[floor z] + frac z E[floor z + 1]``: continuous, with no scaling outside the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tenuto.trainer.model.noise import generator
from tenuto.trainer.spec import Transform


class Places(nn.Module):
    """Raw values to places among the buckets. It learns nothing.

    Args:
        transforms: one for each of ``C`` columns.
        buckets: K.
    """

    def __init__(self, transforms: Sequence[Transform], buckets: int) -> None:
        super().__init__()
        self.buckets = buckets
        units = [1.0 / t.unit for t in transforms]
        middle = [buckets / 2.0 if t.kind == "signed" else 0.0 for t in transforms]
        scale = [
            (buckets - m) / math.log1p(t.reach / t.unit)
            for t, m in zip(transforms, middle, strict=True)
        ]
        self.units: Tensor
        self.middle: Tensor
        self.scale: Tensor
        self.linear: Tensor
        for name, values in (("units", units), ("middle", middle), ("scale", scale)):
            self.register_buffer(name, torch.tensor(values), persistent=False)
        linear = torch.tensor([t.kind == "linear" for t in transforms], dtype=torch.bool)
        self.register_buffer("linear", linear, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """``z``: ``(n, C)`` in ``[0, K]``, NaN where the value is."""
        scaled = values * self.units
        spread = torch.copysign(scaled.abs().log1p_(), scaled) * self.scale + self.middle
        return torch.where(self.linear, scaled, spread).clamp_(0.0, float(self.buckets))


class SoftBuckets(nn.Module):
    """Embeddings of ``C`` columns of raw values.

    Args:
        transforms: one for each column.
        buckets: K.
        size: d, width of an embedding.
        seed: of its first values.
        name: of it, for the same.

    Attributes:
        table: ``(C, K + 2, d)``; of each column the row of missing values, then those of 0 to K.
    """

    def __init__(
        self, transforms: Sequence[Transform], buckets: int, size: int, *, seed: int, name: str
    ) -> None:
        super().__init__()
        columns = len(transforms)
        self.places = Places(transforms, buckets)
        table = torch.zeros(columns, buckets + 2, size)
        # A fresh column is a straight line, which few rows suffice to tilt.
        direction = torch.randn(columns, 1, size, generator=generator(seed, name))
        line = torch.linspace(-1.0, 1.0, buckets + 1).view(1, -1, 1)
        table[:, 1:] = direction * line
        self.table = nn.Parameter(table)
        first_rows = torch.arange(columns) * (buckets + 2)
        self.first_rows: Tensor
        self.register_buffer("first_rows", first_rows, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """``(n, C)`` raw values, NaN where missing, to ``(n, C, d)``."""
        return interpolate(self.table, self.places(values), self.first_rows)


def interpolate(table: Tensor, places: Tensor, first_rows: Tensor) -> Tensor:
    """Each place's mix of its two rows.

    Args:
        table: ``(C, K + 2, d)``, the row of missing values first.
        places: ``(n, C)`` in ``[0, K]``, NaN for missing; nothing is learnt of them.
        first_rows: ``(C,) int64``, index of each column's first row among all ``C (K + 2)``.
    """
    columns, rows, size = table.shape
    missing = places.isnan()
    # The last place is the end of the last pair, not the start of one that is not there.
    lower = places.floor().clamp_(max=float(rows - 3)).masked_fill_(missing, -1.0)
    share = (places - lower).masked_fill_(missing, 0.0)
    index = lower.long() + 1 + first_rows
    mixed: Tensor = _Mix.apply(  # type: ignore[no-untyped-call]
        table.view(-1, size), index.view(-1), share.view(-1, 1)
    )
    return mixed.view(len(places), columns, size)


class _Mix(torch.autograd.Function):
    """``(1 - share) rows[index] + share rows[index + 1]``.

    By hand, because a gather's own backward pass scatters twice into a table of zeros each.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(index, share)
        ctx.rows = rows.shape[0]
        return rows.index_select(0, index).lerp_(rows.index_select(0, index + 1), share)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        index, share = ctx.saved_tensors
        upper = gradient * share
        rows = gradient.new_zeros(ctx.rows, gradient.shape[1])
        rows.index_add_(0, index + 1, upper).index_add_(0, index, gradient - upper)
        return rows, None, None
