"""Features of one kind formed together: what NumPy does for one column, it does for many at once.

A request's matrix has dozens of columns of a few kinds; calling NumPy costs more than what it does
for a few hundred candidates.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np

from tenuto.features.entities import Counter, Entity
from tenuto.features.feature import Feature, Floats, Read
from tenuto.features.sums import Ints
from tenuto.features.windows import Window


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """Sums that are read together.

    Attributes:
        needs: ``k`` counters over windows, all of one entity.
        by_position: whether their position buckets are wanted, one after the other.
    """

    needs: tuple[tuple[Counter, Window], ...]
    by_position: bool = False

    @property
    def entity(self) -> Entity:
        return self.needs[0][0].entity


class ReadMany(Read, Protocol):
    """A read that answers for many counters at once."""

    def totals(self, wanted: Wanted) -> Ints:
        """Sums, ``(n, k) int64``, or ``(n, k * buckets)`` where they are wanted by position."""


Formula = Callable[[ReadMany], Floats]
"""Columns from a read, ``(n, features) float64``."""


class Together(Feature):
    """A feature whose kind forms all of its columns in one go."""

    @classmethod
    @abstractmethod
    def together(cls, features: Sequence[Any]) -> Formula:
        """What forms these features of this kind, whose needs are of the same entities."""

    def values(self, read: Read) -> Floats:
        column: Floats = self.together([self])(_OneByOne(read))[:, 0]
        return column


def formulas(features: Sequence[Feature]) -> list[tuple[list[int], Formula]]:
    """Formulas that form all features, each with the indices of the features that it forms."""
    kinds: dict[Any, list[int]] = {}
    for index, feature in enumerate(features):
        kind: Any = index
        if _is_formed_together(feature):
            kind = type(feature), *(counter.entity for counter, _ in feature.needs)
        kinds.setdefault(kind, []).append(index)
    return [(indices, _formula([features[at] for at in indices])) for indices in kinds.values()]


def _formula(of_kind: Sequence[Feature]) -> Formula:
    first = of_kind[0]
    if _is_formed_together(first):
        return first.together(of_kind)
    return lambda read: first.values(read)[:, None]


def _is_formed_together(feature: Feature) -> TypeGuard[Together]:
    # Whoever derives from a kind may form its values otherwise.
    return isinstance(feature, Together) and type(feature).values is Together.values


class _OneByOne:
    """A read that answers for one counter at a time, asked for several."""

    def __init__(self, read: Read) -> None:
        self.request_ts_ms = read.request_ts_ms
        self.total, self.by_position = read.total, read.by_position
        self.first_seen_ms, self.context = read.first_seen_ms, read.context

    def totals(self, wanted: Wanted) -> Ints:
        columns: list[Ints] = []
        for counter, window in wanted.needs:
            if wanted.by_position:
                columns += self.by_position(counter, window)
            else:
                columns.append(self.total(counter, window))
        return np.stack(columns, axis=1)
