"""A log's columns at rest: sorted once, kept compactly, sliced into plain Python values.

Numbers are NumPy arrays and text is codes into its distinct values, so that ten million rows stay
well below a hundred bytes a column and a request is built from slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tenuto.drive.mapping import LogLayout
from tenuto.features.events import Event

ABSENT = -1
"""Stands for an absent time or position, which are never negative."""


class StoredColumn:
    """One column in an order of rows; absent values read as None."""

    def __init__(self, values: pa.ChunkedArray | pa.Array, order: np.ndarray) -> None:
        """Keep ``values[order]``: values of any type, order ``(rows,) int64``."""
        array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        self._texts: pa.Array | None = None
        if pa.types.is_dictionary(array.type):
            self._texts, array = array.dictionary, array.indices
        there = pc.is_valid(array).to_numpy(zero_copy_only=False)
        self._there: np.ndarray | None = None if there.all() else there[order]
        zero = pa.scalar(0).cast(array.type)
        self._values = pc.fill_null(array, zero).to_numpy(zero_copy_only=False)[order]

    def __getitem__(self, rows: slice) -> list[Any]:
        """Values of those rows."""
        values = self._values[rows]
        there = None if self._there is None else self._there[rows]
        if self._texts is not None:
            codes = pa.array(values, mask=None if there is None else ~there)
            found: list[Any] = self._texts.take(codes).to_pylist()
            return found
        plain: list[Any] = values.tolist()
        if there is not None and not there.all():
            return [value if kept else None for value, kept in zip(plain, there, strict=True)]
        return plain

    def at(self, row: int) -> Any:
        """The value of one row."""
        return self[row : row + 1][0]


@dataclass(frozen=True)
class EventColumns:
    """When an event happened, and the columns that are named like its fields.

    Attributes:
        event: the declaration.
        times: ``(rows,) int64`` epoch ms, ``ABSENT`` where it did not happen.
        fields: its own columns by name.
    """

    event: Event
    times: np.ndarray
    fields: dict[str, StoredColumn]

    @classmethod
    def of(
        cls, event: Event, layout: LogLayout, table: pa.Table, order: np.ndarray
    ) -> EventColumns:
        """The columns of ``event`` in that order of rows."""
        time, own = layout.of_event(event)
        times = np.full(len(order), ABSENT, np.int64)
        if time is not None:
            times = filled(table[time.key])[order]
        return cls(event, times, {one.name: StoredColumn(table[one.key], order) for one in own})

    def happened(self, begin: int, end: int) -> Iterator[int]:
        """Rows of [begin, end) for which the event happened."""
        for offset in np.flatnonzero(self.times[begin:end] != ABSENT):
            yield begin + int(offset)

    def own(self, row: int) -> dict[str, Any]:
        """Its fields in that row, the absent ones left out."""
        values = {name: column.at(row) for name, column in self.fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def filled(values: pa.ChunkedArray) -> np.ndarray:
    """int64 of times or positions, ``ABSENT`` where there is none."""
    array = pc.fill_null(values.combine_chunks(), ABSENT)
    return np.asarray(array.to_numpy(zero_copy_only=False), np.int64)
