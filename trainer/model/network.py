"""The dense network: raw values and rows of id tables to a logit of each head.

Trainer and serving run this one class, so there is no second implementation of a transform.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tenuto.trainer.model.mmoe import Mmoe
from tenuto.trainer.model.position_tower import PositionTower
from tenuto.trainer.model.soft_bucket import SoftBuckets
from tenuto.trainer.model.wide import Wide
from tenuto.trainer.spec import ModelSpec, Transform

_EXAMPLE_AGE = Transform("log", 60.0, 1e7)


def main_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights in which every size of a spec shows, without making any of them."""
    settings = spec.settings
    beside = sum(column.role == "position" for column in spec.columns)
    columns = len(spec.columns) - beside + settings.example_age
    width = columns * settings.bucket_size + len(spec.ids) * settings.id_size
    buckets = settings.buckets + 2
    shapes: dict[str, tuple[int, ...]] = {
        "buckets.table": (columns, buckets, settings.bucket_size),
        "mmoe.hidden": (width, settings.experts, settings.expert_hidden),
        "mmoe.expert": (settings.experts, settings.expert_hidden, settings.expert_size),
        "mmoe.tower": (len(spec.heads), settings.expert_size, settings.tower_size),
        "position.table": (settings.positions + 1, settings.position_size),
    }
    if beside:
        shapes["position.columns.table"] = (beside, buckets, settings.position_size)
    return shapes


class Network(nn.Module):
    """Everything with dense weights.

    Args:
        spec: of the model.

    Attributes:
        main: indices of the spec's columns that are inputs of :meth:`forward`.
        beside: of those that are inputs of :meth:`at_position`.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        settings, heads = spec.settings, len(spec.heads)
        self.main = [i for i, c in enumerate(spec.columns) if c.role == "main"]
        self.beside = [i for i, c in enumerate(spec.columns) if c.role == "position"]
        main = [spec.columns[i].transform for i in self.main]
        beside = [spec.columns[i].transform for i in self.beside]
        aged = [_EXAMPLE_AGE] if settings.example_age else []
        self.example_age = settings.example_age
        self.roots = [index for index, head in enumerate(spec.heads) if head.given is None]
        self.buckets = SoftBuckets(
            [*main, *aged],
            settings.buckets,
            settings.bucket_size,
            seed=settings.seed,
            name="buckets.table",
        )
        width = (len(main) + len(aged)) * settings.bucket_size + len(spec.ids) * settings.id_size
        self.mmoe = Mmoe(
            width,
            heads,
            settings.experts,
            settings.expert_hidden,
            settings.expert_size,
            settings.tower_size,
            settings.seed,
        )
        self.wide = Wide(len(main), heads)
        self.position = PositionTower(
            settings.positions,
            beside,
            settings.buckets,
            settings.position_size,
            len(self.roots),
            settings.seed,
        )
        priors = [math.log(h.prior / (1.0 - h.prior)) for h in spec.heads]
        self.bias = nn.Parameter(torch.tensor(priors))

    def main_of(self, values: Tensor) -> Tensor:
        """Of the values of all columns, those of :meth:`forward`; no copy where it is all."""
        return values[:, self.main] if self.beside else values

    def beside_of(self, values: Tensor) -> Tensor:
        """Of the values of all columns, those of :meth:`at_position`."""
        return values[:, self.beside]

    def forward(self, values: Tensor, ids: Tensor, age_s: Tensor | float = 0.0) -> Tensor:
        """Logits at the reference position.

        Args:
            values: ``(n, main columns) float32`` raw, NaN where missing.
            ids: ``(n, tables * id_size)``, the ids' rows side by side.
            age_s: ``(n,)``, seconds that the newest row is ahead of each; 0 when serving.

        Returns:
            ``(n, heads)``.
        """
        n = len(values)
        raw = values
        if self.example_age:
            ages = values.new_zeros(n) + age_s
            raw = torch.cat([values, ages.unsqueeze(1)], 1)
        inputs = torch.cat([self.buckets(raw).flatten(1), ids], 1)
        logits: Tensor = self.mmoe(inputs) + self.wide(values) + self.bias
        return logits

    def at_position(self, positions: Tensor, values: Tensor) -> Tensor:
        """What to add to :meth:`forward` for rows shown at known positions.

        Args:
            positions: ``(n,)``, -1 where not known.
            values: ``(n, position columns) float32`` raw, NaN where missing.

        Returns:
            ``(n, heads)``; 0 for heads that are given another.
        """
        added: Tensor = self.position(self.position.codes(positions), values)
        if len(self.roots) == len(self.bias):
            return added
        every = added.new_zeros(len(added), len(self.bias))
        return every.index_copy(1, torch.tensor(self.roots), added)
