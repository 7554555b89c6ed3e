"""The formulas of docs/features.md in plain Python floats, one value at a time."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tenuto.features.entities import TRAFFIC, Counter, Measure
from tenuto.features.feature import Feature, Floats
from tenuto.features.moments import Age, Clock, Supplied
from tenuto.features.values import ClicksOverExpected, Mean, Rate, Sum, WilsonBound
from tenuto.features.windows import Window

CANONICAL_NAN = 0x7FC00000


class Moment(Protocol):
    """One item of one read: sums over windows, whether an entity was seen, and context."""

    request_ts_ms: int

    def total(self, counter: Counter, window: Window) -> int: ...
    def by_position(self, counter: Counter, window: Window) -> list[int]: ...
    def first_seen_ms(self, counter: Counter, window: Window) -> int | None: ...
    def seen(self, counter: Counter) -> bool: ...
    def context(self, name: str) -> float | None: ...


def is_shared(feature: Feature) -> bool:
    """Whether a formula is the application's own: then there is no second one to compare with."""
    return type(feature) not in _FORMULAS


def value(feature: Feature, moment: Moment) -> float:
    """A feature's value in float64, NaN where it is missing."""
    formula = _FORMULAS.get(type(feature))
    if formula is not None:
        return formula(feature, moment)
    if feature.missing_with is not None and not moment.seen(feature.missing_with):
        return math.nan
    return float(feature.values(_OneItem(moment))[0])


def float32_bits(number: float) -> int:
    """The bits of a float64 rounded once to float32; every NaN is the canonical one."""
    if math.isnan(number):
        return CANONICAL_NAN
    try:
        packed = struct.pack("<f", number)
    except OverflowError:
        packed = struct.pack("<f", math.copysign(math.inf, number))
    return int.from_bytes(packed, "little")


def _sum(f: Any, m: Moment) -> float:
    return float(m.total(f.counter, f.window)) if m.seen(f.counter) else math.nan


def _rate(f: Any, m: Moment) -> float:
    if not m.seen(f.clicks):
        return math.nan
    n = m.total(f.shown, f.window)
    c = min(m.total(f.clicks, f.window), n)
    prior = float(f.otherwise)
    if f.prior == "traffic":
        all_n = m.total(_of_traffic(f.shown), f.window)
        if all_n > 0:
            all_c = min(m.total(_of_traffic(f.clicks), f.window), all_n)
            prior = float(all_c) / float(all_n)
    return float((float(c) + f.strength * prior) / (float(n) + f.strength))


def _wilson(f: Any, m: Moment) -> float:
    shown = m.total(f.shown, f.window)
    if not m.seen(f.clicks) or shown == 0:
        return math.nan
    n = float(shown)
    p = float(min(m.total(f.clicks, f.window), shown)) / n
    zz = f.z * f.z
    centre = p + zz / (2.0 * n)
    spread = f.z * math.sqrt((p * (1.0 - p) + zz / (4.0 * n)) / n)
    return float((centre - spread) / (1.0 + zz / n))


def _mean(f: Any, m: Moment) -> float:
    top, bottom = m.total(f.numerator, f.window), m.total(f.denominator, f.window)
    if not m.seen(f.numerator) or bottom == 0:
        return math.nan
    return float(min(top, bottom) if f.bounded else top) / float(bottom)


def _coec(f: Any, m: Moment) -> float:
    if not m.seen(f.clicks):
        return math.nan
    own = m.by_position(_split(f.shown), f.window)
    shown = m.by_position(_of_traffic(_split(f.shown)), f.window)
    clicks = m.by_position(_of_traffic(_split(f.clicks)), f.window)
    expected = 0.0
    for mine, n, c in zip(own, shown, clicks, strict=True):
        rate = float(min(c, n)) / float(n) if n else 0.0
        expected = expected + float(mine) * rate
    c = m.total(f.clicks, f.window)
    return float((float(c) + f.strength) / (expected + f.strength))


def _age(f: Any, m: Moment) -> float:
    published = m.context(f.published)
    start_ms: float | None = published
    if published is None or math.isnan(published):
        seen_ms = m.first_seen_ms(f.counter, f.window)
        start_ms = None if seen_ms is None else float(seen_ms)
    if start_ms is None:
        return math.nan
    age_ms = float(m.request_ts_ms) - start_ms
    return max(age_ms, 0.0) / 1000.0


def _clock(f: Any, m: Moment) -> float:
    local_s = (m.request_ts_ms + f.utc_offset_ms) // 1000
    if f.unit == "hour":
        return float(local_s // 3600 % 24)
    # The first of January 1970 was a Thursday, and Monday is 0.
    return float((local_s // 86_400 + 3) % 7)


def _supplied(f: Any, m: Moment) -> float:
    found = m.context(f.source.name)
    return math.nan if found is None else found


_FORMULAS: dict[type, Callable[[Any, Moment], float]] = {
    Sum: _sum, Rate: _rate, WilsonBound: _wilson, Mean: _mean, ClicksOverExpected: _coec,
    Age: _age, Clock: _clock, Supplied: _supplied,
}  # fmt: skip


def _of_traffic(counter: Counter) -> Counter:
    return Counter(TRAFFIC, counter.name, counter.measure)


def _split(counter: Counter) -> Counter:
    m = counter.measure
    return Counter(counter.entity, counter.name, Measure(m.event, m.field, m.where, True))


class _OneItem:
    """A moment as an application's own formula reads it: arrays of one item."""

    def __init__(self, moment: Moment) -> None:
        self.request_ts_ms = moment.request_ts_ms
        self._moment = moment

    def total(self, counter: Counter, window: Window) -> NDArray[np.int64]:
        return np.array([self._moment.total(counter, window)], np.int64)

    def by_position(self, counter: Counter, window: Window) -> list[NDArray[np.int64]]:
        return [np.array([n], np.int64) for n in self._moment.by_position(counter, window)]

    def first_seen_ms(self, counter: Counter, window: Window) -> NDArray[np.int64]:
        seen_ms = self._moment.first_seen_ms(counter, window)
        return np.array([-1 if seen_ms is None else seen_ms], np.int64)

    def context(self, name: str) -> Floats | None:
        found = self._moment.context(name)
        return None if found is None else np.array([found])
