"""What a feature is: a named column, the counters and context it needs, and how it is formed.

Rule: a value is integer sums, then float64 with + - * / and square root only, in the written
order, rounded once to float32. Logarithms and exponentials live in the model. ``values.py`` holds
the vocabulary; an application adds its own by subclassing :class:`Feature`.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tenuto.features.entities import Counter
from tenuto.features.sums import Ints
from tenuto.features.windows import Window

Floats = NDArray[np.float64]
Per = Literal["item", "request"]

DEFAULT_FRESH_WITHIN = "1m"


@dataclass(frozen=True, slots=True)
class Context:
    """A value that the ranker supplies, by name, per item or per request."""

    name: str
    per: Per = "item"
    type: type = float


class Read(Protocol):
    """What a feature is formed from: everything is of one read, ``n`` items long."""

    request_ts_ms: int

    def total(self, counter: Counter, window: Window) -> Ints:
        """Sum over a window, ``(n,) int64``."""

    def by_position(self, counter: Counter, window: Window) -> list[Ints]:
        """A count over a window for each position bucket, each ``(n,) int64``."""

    def first_seen_ms(self, counter: Counter, window: Window) -> Ints:
        """Start of the oldest tile in which it was counted, -1 without any, ``(n,) int64``."""

    def context(self, name: str) -> Floats | None:
        """A declared context value, ``(n,) float64``, NaN where absent; None when not given."""


class Feature(ABC):
    """One column of the matrix.

    Attributes:
        name: the column.
        fresh_within_ms: how far the streams behind it may lie behind ``as_of`` before the value
            is called stale.
    """

    name: str
    fresh_within_ms: int

    @property
    def needs(self) -> list[tuple[Counter, Window]]:
        """Counters and windows that must be stored for it."""
        return []

    @property
    def contexts(self) -> list[Context]:
        """Context values that it reads."""
        return []

    @property
    def missing_with(self) -> Counter | None:
        """The value is missing when this counter's entity has not been seen."""
        needs = self.needs
        return needs[0][0] if needs else None

    @abstractmethod
    def values(self, read: Read) -> Floats:
        """The column in float64, ``(n,)``; NaN where the value is not defined."""

    @property
    @abstractmethod
    def definition(self) -> dict[str, Any]:
        """Everything that decides its numbers, as JSON values; never its name or freshness."""

    @property
    def hash(self) -> str:
        """16 hex digits naming the definition; two columns with one hash mean the same."""
        text = json.dumps(self.definition, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def topics(self) -> set[str]:
        """Event streams that feed it."""
        return {counter.measure.event.name for counter, _ in self.needs}

    @property
    def window_ms(self) -> int:
        """Its longest window, 0 without any."""
        return max((window.length_ms for _, window in self.needs), default=0)


def counter_definition(counter: Counter, window: Window) -> dict[str, Any]:
    """The part of a definition that names one counter over one window."""
    return {
        "entity": [counter.entity.name, *counter.entity.key],
        "measure": counter.measure.definition,
        "window_ms": window.length_ms,
        "tile_ms": window.tile_ms,
    }


def per_unit(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient, NaN where the denominator is zero."""
    safe = np.where(denominator == 0.0, 1.0, denominator)
    return np.where(denominator == 0.0, np.nan, numerator / safe)
