"""What a read returns: values and states of every candidate, and the log positions behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenuto.features.schema import Column

CANONICAL_NAN = np.frombuffer(b"\x00\x00\xc0\x7f", "<f4")[0]


class State(IntEnum):
    """How far a value can be trusted; of several, the highest holds."""

    FRESH = 0
    MISSING = 1
    STALE = 2
    REBUILDING = 3


@dataclass(frozen=True)
class Stamp:
    """The log positions that a read's values were formed at, exactly.

    Attributes:
        topics: the event streams, in order.
        entries: progress of each (topic, partition), ``(topics, partitions)`` of
            ``PROGRESS_DTYPE``; it names the batch in progress and its applied chunks too.
        buckets: how many the state is kept in.
        read: those that were read, ascending; ``entries`` is of the first of them.
        others: of the others, ``(len(read) - 1, topics, partitions)``.
    """

    topics: tuple[str, ...]
    entries: NDArray[Any]
    buckets: int = 1
    read: tuple[int, ...] = (0,)
    others: NDArray[Any] | None = None

    def arrivals(self) -> NDArray[np.int64]:
        """Arrivals of everything that was read, in no order."""
        parts = [self.entries["arrival"].reshape(-1)]
        if self.others is not None:
            parts.append(self.others["arrival"].reshape(-1))
        return np.concatenate(parts)


@dataclass(frozen=True)
class Matrix:
    """Features of the candidates of one request.

    Attributes:
        items: candidate ids, ``n``.
        columns: the schema, ``m`` columns.
        values: ``(n, m) float32``; a value that is not there is the canonical NaN, never zero.
        states: ``(n, m) uint8`` of :class:`State`.
        as_of_ms: the moment of the windows, epoch ms.
        stamp: the log positions read at.
        layout: digest of the layout read from.
        context: the context values given, as they were given.
        user_id, query: who asked what; a ranker looks their ids up.
    """

    items: Sequence[str]
    columns: tuple[Column, ...]
    values: NDArray[np.float32]
    states: NDArray[np.uint8]
    as_of_ms: int
    stamp: Stamp
    layout: str
    context: dict[str, Any]
    user_id: str
    query: str

    @property
    def rebuilding(self) -> bool:
        """Whether any value is being rebuilt after a loss: low sums then mean nothing."""
        return bool((self.states == State.REBUILDING).any())

    def share(self, state: State) -> float:
        """Share of the values that are in a state, 0 to 1; 0 where there is no value."""
        return float((self.states == state).mean()) if self.states.size else 0.0

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def column(self, name: str) -> NDArray[np.float32]:
        """One column by name, ``(n,) float32``.

        Raises:
            KeyError: there is no such column.
        """
        return self.values[:, self._index(name)]

    def state(self, name: str) -> NDArray[np.uint8]:
        """The states of one column, ``(n,) uint8`` of :class:`State`."""
        return self.states[:, self._index(name)]

    def take(self, rows: Sequence[int]) -> Matrix:
        """The rows of these candidates, in this order: what was shown."""
        index = np.asarray(rows, np.int64)
        context = {
            name: [value[i] for i in rows] if _per_item(value, len(self.items)) else value
            for name, value in self.context.items()
        }
        return Matrix(
            [self.items[i] for i in rows],
            self.columns,
            self.values[index],
            self.states[index],
            self.as_of_ms,
            self.stamp,
            self.layout,
            context,
            self.user_id,
            self.query,
        )

    def _index(self, name: str) -> int:
        for index, column in enumerate(self.columns):
            if column.name == name:
                return index
        raise KeyError(f"no column {name!r}: there are {', '.join(self.names)}")


def _per_item(value: Any, n: int) -> bool:
    return not isinstance(value, str) and hasattr(value, "__len__") and len(value) == n


def canonical(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """float64 rounded once to float32, every NaN the canonical one (0x7FC00000)."""
    rounded = values.astype(np.float32)
    rounded[np.isnan(rounded)] = CANONICAL_NAN
    return rounded
