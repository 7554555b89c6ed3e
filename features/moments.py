"""Features of the moment and of the request: age, hour, weekday, and context by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tenuto.features.durations import duration_ms
from tenuto.features.entities import Counter
from tenuto.features.feature import (
    DEFAULT_FRESH_WITHIN,
    Context,
    Feature,
    Floats,
    Per,
    Read,
    counter_definition,
)
from tenuto.features.windows import Window

_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
# 1970-01-01 was a Thursday; Monday is 0.
_EPOCH_WEEKDAY = 3


@dataclass(frozen=True)
class Age(Feature):
    """Seconds from an entity's publication to the request, at least 0.

    The publish time is the context value ``published`` (epoch ms, per item) where given, else the
    entity's first sight: the start of the oldest tile of ``window`` in which it was counted.
    """

    name: str
    counter: Counter
    window: Window
    published: str
    fresh_within_ms: int

    @property
    def needs(self) -> list[tuple[Counter, Window]]:
        return [(self.counter, self.window)]

    @property
    def contexts(self) -> list[Context]:
        return [Context(self.published, "item", int)]

    @property
    def missing_with(self) -> Counter | None:
        return None

    def values(self, read: Read) -> Floats:
        seen_ms = read.first_seen_ms(self.counter, self.window)
        start_ms = np.where(seen_ms < 0, np.nan, seen_ms.astype(np.float64))
        published = read.context(self.published)
        if published is not None:
            start_ms = np.where(np.isnan(published), start_ms, published)
        return np.maximum(float(read.request_ts_ms) - start_ms, 0.0) / 1000.0

    @property
    def definition(self) -> dict[str, Any]:
        seen = counter_definition(self.counter, self.window)
        return {"kind": "age", "seen": seen, "published": self.published}


@dataclass(frozen=True)
class Clock(Feature):
    """Hour (0-23) or weekday (Monday 0) of the request, at a fixed offset from UTC."""

    name: str
    unit: str
    utc_offset_ms: int = 0
    fresh_within_ms: int = 0

    def values(self, read: Read) -> Floats:
        local_ms = read.request_ts_ms + self.utc_offset_ms
        if self.unit == "hour":
            value = local_ms // _HOUR_MS % 24
        else:
            value = (local_ms // _DAY_MS + _EPOCH_WEEKDAY) % 7
        return np.full(1, float(value))

    @property
    def definition(self) -> dict[str, Any]:
        return {"kind": self.unit, "utc_offset_ms": self.utc_offset_ms}


@dataclass(frozen=True)
class Supplied(Feature):
    """A context number as a column; missing where the ranker gave none."""

    name: str
    source: Context
    fresh_within_ms: int = 0

    @property
    def contexts(self) -> list[Context]:
        return [self.source]

    def values(self, read: Read) -> Floats:
        given = read.context(self.source.name)
        return np.full(1, np.nan) if given is None else given

    @property
    def definition(self) -> dict[str, Any]:
        return {"kind": "context", "name": self.source.name, "per": self.source.per}


def age(
    counter: Counter,
    *,
    published: str,
    window: str = "7d",
    name: str = "",
    fresh_within: str = DEFAULT_FRESH_WITHIN,
) -> list[Feature]:
    """Age in seconds, for example ``item_age``; ``counter`` says whose first sight to take."""
    name = name or f"{counter.entity.name}_age"
    return [Age(name, counter, Window.of(window), published, duration_ms(fresh_within))]


def hour(*, utc_offset: str = "0s") -> list[Feature]:
    """Hour of day of the request."""
    return [Clock("hour", "hour", duration_ms(utc_offset))]


def weekday(*, utc_offset: str = "0s") -> list[Feature]:
    """Day of the week of the request, Monday 0."""
    return [Clock("weekday", "weekday", duration_ms(utc_offset))]


def context(
    name: str, *, per: Per = "item", type: type[float] | type[int] = float
) -> list[Feature]:
    """A number that the ranker supplies with each read, as a column."""
    return [Supplied(name, Context(name, per, type))]
