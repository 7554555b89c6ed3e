"""Columns formed from what a read brought: sums of its views, and context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenuto.features.entities import Counter, Entity
from tenuto.features.feature import Context, Feature, Floats
from tenuto.features.schema import FeatureSet
from tenuto.features.sums import Ints, Selection, ViewSums
from tenuto.features.together import Formula, Wanted, formulas
from tenuto.features.windows import Window


class ColumnFormer:
    """Forms the columns of one feature set."""

    def __init__(self, features: FeatureSet) -> None:
        self._contexts = features.contexts
        # Columns are formed one formula after the other, and then put in their order: to assign to
        # chosen columns NumPy lets other threads go first.
        self._formulas, order = _side_by_side(formulas(features.features))
        self._order = np.argsort(order)
        self._missing = _by_missing_entity(features.features)
        # Where each formula's sums lie; filled in as they are first read.
        self._selections: dict[Wanted, Selection] = {}

    def moment(
        self, request_ts_ms: int, sums: Mapping[Entity, ViewSums], context: Mapping[str, Any]
    ) -> Moment:
        """What ``columns`` takes: one read's sums, and context as it was given."""
        return Moment(request_ts_ms, sums, context, self._contexts, self._selections)

    def columns(self, read: Moment, n: int) -> Floats:
        """All columns, ``(n, features) float64``; NaN where a value is missing."""
        formed = np.empty((n, len(self._order)))
        for columns, formula in self._formulas:
            formed[:, columns] = formula(read)
        formed = formed.take(self._order, axis=1)
        for counter, with_it in self._missing:
            known = read.known(counter)
            if not known.all():
                formed = np.where(with_it & ~known[:, None], np.nan, formed)
        return formed


class Moment:
    """The read that features are formed from: sums of every view, at one moment."""

    def __init__(
        self,
        request_ts_ms: int,
        sums: Mapping[Entity, ViewSums],
        context: Mapping[str, Any],
        declared: Mapping[str, Context],
        selections: dict[Wanted, Selection],
    ) -> None:
        self.request_ts_ms = request_ts_ms
        self._sums = sums
        self._context = context
        self._declared = declared
        self._selections = selections

    def totals(self, wanted: Wanted) -> Ints:
        sums = self._sums[wanted.entity]
        selection = self._selections.get(wanted)
        if selection is None:
            needs = ((counter.measure, window) for counter, window in wanted.needs)
            selection = Selection.of(sums.view, needs, by_position=wanted.by_position)
            self._selections[wanted] = selection
        return sums.totals(selection)

    def total(self, counter: Counter, window: Window) -> Ints:
        return self._sums[counter.entity].total(counter.measure, window)

    def by_position(self, counter: Counter, window: Window) -> list[Ints]:
        return self._sums[counter.entity].by_position(counter.measure, window)

    def first_seen_ms(self, counter: Counter, window: Window) -> Ints:
        return self._sums[counter.entity].first_seen_ms(counter.measure, window)

    def known(self, counter: Counter) -> NDArray[np.bool_]:
        """Whether each item's entity was ever seen, ``(n,)``."""
        return self._sums[counter.entity].seen

    def context(self, name: str) -> Floats | None:
        value = self._context.get(name)
        if value is None:
            return None
        if self._declared[name].per == "request":
            value = [value]
        return np.array([np.nan if v is None else v for v in value], np.float64)


def _side_by_side(
    formulas: Sequence[tuple[list[int], Formula]],
) -> tuple[list[tuple[slice, Formula]], list[int]]:
    """Each formula with columns next to those of the one before, and whose columns these are."""
    placed: list[tuple[slice, Formula]] = []
    order: list[int] = []
    for indices, formula in formulas:
        placed.append((slice(len(order), len(order) + len(indices)), formula))
        order += indices
    return placed, order


def _by_missing_entity(features: Sequence[Feature]) -> list[tuple[Counter, NDArray[np.bool_]]]:
    """The features that are missing with an entity, ``(features,)``, and a counter of it."""
    found: dict[Entity, tuple[Counter, NDArray[np.bool_]]] = {}
    for index, feature in enumerate(features):
        if (counter := feature.missing_with) is not None:
            nothing = np.zeros(len(features), np.bool_)
            found.setdefault(counter.entity, (counter, nothing))[1][index] = True
    return list(found.values())
