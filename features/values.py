"""The vocabulary of counted features: sums, smoothed rates, bounds, means and COEC.

Each function returns one feature per window, named ``<entity>_<name>_<window>``. Ages, time and
context are in ``moments.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from tenuto.features.durations import duration_ms
from tenuto.features.entities import TRAFFIC, Counter, Measure
from tenuto.features.feature import (
    DEFAULT_FRESH_WITHIN,
    Feature,
    Floats,
    counter_definition,
    per_unit,
)
from tenuto.features.positions import POSITION_BUCKETS
from tenuto.features.sums import Ints
from tenuto.features.together import Formula, ReadMany, Together, Wanted
from tenuto.features.windows import Window

Windows = str | Sequence[str]


@dataclass(frozen=True)
class Sum(Together):
    """A counter's raw sum over a window."""

    name: str
    counter: Counter
    window: Window
    fresh_within_ms: int

    @property
    def needs(self) -> list[tuple[Counter, Window]]:
        return [(self.counter, self.window)]

    @classmethod
    def together(cls, features: Sequence[Sum]) -> Formula:
        wanted = Wanted(tuple((f.counter, f.window) for f in features))
        return lambda read: read.totals(wanted).astype(np.float64)

    @property
    def definition(self) -> dict[str, Any]:
        return {"kind": "sum", "of": counter_definition(self.counter, self.window)}


@dataclass(frozen=True)
class Rate(Together):
    """A rate smoothed towards a prior: ``(c + k * p) / (n + k)``, with ``c`` at most ``n``.

    ``p`` is the traffic's own rate in the same window, or ``otherwise`` until there is traffic;
    the Bayesian smoothing of Wang et al. (*Click-Through Rate Estimation for Rare Events in Online
    Advertising*, 2011), with a declared strength instead of a fitted one.
    """

    name: str
    clicks: Counter
    shown: Counter
    window: Window
    prior: Literal["traffic"] | None
    strength: float
    otherwise: float
    fresh_within_ms: int

    @property
    def needs(self) -> list[tuple[Counter, Window]]:
        own = [(self.clicks, self.window), (self.shown, self.window)]
        if self.prior is None:
            return own
        return own + [(counter.on(TRAFFIC), window) for counter, window in own]

    @classmethod
    def together(cls, features: Sequence[Rate]) -> Formula:
        clicks_and_shown = _Pair([f.needs[:2] for f in features])
        strength, otherwise = _each("strength", features), _each("otherwise", features)
        # Features of one kind need the same entities: all of them the traffic, or none.
        with_traffic = features[0].prior == "traffic"
        of_traffic = _Pair([f.needs[2:] for f in features]) if with_traffic else None

        def form(read: ReadMany) -> Floats:
            c, n = clicks_and_shown.read(read)
            c = np.minimum(c, n)
            prior = otherwise
            if of_traffic is not None:
                all_c, all_n = of_traffic.read(read)
                all_c = np.minimum(all_c, all_n)
                rate = per_unit(all_c.astype(np.float64), all_n.astype(np.float64))
                prior = np.where(all_n > 0, rate, prior)
            weighted = strength * prior
            result: Floats = (c.astype(np.float64) + weighted) / (n.astype(np.float64) + strength)
            return result

        return form

    @property
    def definition(self) -> dict[str, Any]:
        return {
            "kind": "rate",
            "clicks": counter_definition(self.clicks, self.window),
            "shown": counter_definition(self.shown, self.window),
            "prior": self.prior,
            "strength": self.strength,
            "otherwise": self.otherwise,
        }


@dataclass(frozen=True)
class WilsonBound(Together):
    """Lower bound of Wilson's score interval for a rate (Wilson, 1927); NaN when never shown."""

    name: str
    clicks: Counter
    shown: Counter
    window: Window
    z: float
    fresh_within_ms: int

    @property
    def needs(self) -> list[tuple[Counter, Window]]:
        return [(self.clicks, self.window), (self.shown, self.window)]

    @classmethod
    def together(cls, features: Sequence[WilsonBound]) -> Formula:
        clicks_and_shown = _Pair([f.needs for f in features])
        z = _each("z", features)

        def form(read: ReadMany) -> Floats:
            clicks, shown = clicks_and_shown.read(read)
            c = np.minimum(clicks, shown).astype(np.float64)
            n = np.where(shown == 0, 1, shown).astype(np.float64)
            p = c / n
            zz = z * z
            centre = p + zz / (2.0 * n)
            spread = z * np.sqrt((p * (1.0 - p) + zz / (4.0 * n)) / n)
            return np.where(shown == 0, np.nan, (centre - spread) / (1.0 + zz / n))

        return form

    @property
    def definition(self) -> dict[str, Any]:
        return {
            "kind": "wilson",
            "clicks": counter_definition(self.clicks, self.window),
            "shown": counter_definition(self.shown, self.window),
            "z": self.z,
        }


@dataclass(frozen=True)
class Mean(Together):
    """One counter per another, unsmoothed: mean play time, mean position; NaN over nothing."""

    name: str
    numerator: Counter
    denominator: Counter
    window: Window
    bounded: bool
    fresh_within_ms: int

    @property
    def needs(self) -> list[tuple[Counter, Window]]:
        return [(self.numerator, self.window), (self.denominator, self.window)]

    @classmethod
    def together(cls, features: Sequence[Mean]) -> Formula:
        both = _Pair([f.needs for f in features])
        bounded = np.array([f.bounded for f in features])

        def form(read: ReadMany) -> Floats:
            top, bottom = both.read(read)
            if bounded.any():
                top = np.where(bounded, np.minimum(top, bottom), top)
            return per_unit(top.astype(np.float64), bottom.astype(np.float64))

        return form

    @property
    def definition(self) -> dict[str, Any]:
        return {
            "kind": "mean",
            "numerator": counter_definition(self.numerator, self.window),
            "denominator": counter_definition(self.denominator, self.window),
            "bounded": self.bounded,
        }


@dataclass(frozen=True)
class ClicksOverExpected(Together):
    """COEC: ``(c + k) / (E + k)``, ``E`` the clicks that the traffic gives at these positions.

    An item shown only at the bottom is not punished for it (Zhang and Jones, *Comparing Click
    Logs and Editorial Labels for Training Query Rewriting*, 2007). ``E`` is the sum over position
    buckets, in their order, of the item's impressions times the traffic's click rate there.
    """

    name: str
    clicks: Counter
    shown: Counter
    window: Window
    strength: float
    fresh_within_ms: int

    @property
    def needs(self) -> list[tuple[Counter, Window]]:
        shown, clicks = self._by_position
        return [
            (self.clicks, self.window),
            (shown, self.window),
            (shown.on(TRAFFIC), self.window),
            (clicks.on(TRAFFIC), self.window),
        ]

    @cached_property
    def _by_position(self) -> tuple[Counter, Counter]:
        def split(counter: Counter) -> Counter:
            m = counter.measure
            return Counter(counter.entity, counter.name, Measure(m.event, m.field, m.where, True))

        return split(self.shown), split(self.clicks)

    @classmethod
    def together(cls, features: Sequence[ClicksOverExpected]) -> Formula:
        wanted_clicks = Wanted(tuple((f.clicks, f.window) for f in features))
        shown = Wanted(tuple(f.needs[1] for f in features), by_position=True)
        of_traffic = Wanted(tuple(need for f in features for need in f.needs[2:]), by_position=True)
        strength = _each("strength", features)
        shape = (-1, len(features), POSITION_BUCKETS)

        def form(read: ReadMany) -> Floats:
            traffic = read.totals(of_traffic).reshape(len(features), 2, POSITION_BUCKETS)
            n = traffic[:, 0]
            c = np.minimum(traffic[:, 1], n).astype(np.float64)
            rate = np.where(n == 0, 0.0, c / np.where(n == 0, 1, n).astype(np.float64))
            parts = read.totals(shown).reshape(shape).astype(np.float64) * rate
            expected = np.zeros(parts.shape[:2])
            for bucket in range(POSITION_BUCKETS):
                expected = expected + parts[:, :, bucket]
            clicked = read.totals(wanted_clicks).astype(np.float64)
            result: Floats = (clicked + strength) / (expected + strength)
            return result

        return form

    @property
    def definition(self) -> dict[str, Any]:
        return {
            "kind": "coec",
            "clicks": counter_definition(self.clicks, self.window),
            "shown": counter_definition(self.shown, self.window),
            "strength": self.strength,
        }


def _each(name: str, features: Sequence[Feature]) -> Floats:
    """A number of each feature, ``(features,)``."""
    return np.array([getattr(feature, name) for feature in features], np.float64)


class _Pair:
    """Two sums of each feature: the first of all of them, and the second."""

    def __init__(self, needs: Sequence[Sequence[tuple[Counter, Window]]]) -> None:
        firsts, seconds = zip(*needs, strict=True)
        self._k = len(firsts)
        same = firsts[0][0].entity == seconds[0][0].entity
        self._wanted = [Wanted(firsts + seconds)] if same else [Wanted(firsts), Wanted(seconds)]

    def read(self, read: ReadMany) -> tuple[Ints, Ints]:
        """Each ``(n, features) int64``."""
        found, *other = [read.totals(wanted) for wanted in self._wanted]
        return (found, other[0]) if other else (found[:, : self._k], found[:, self._k :])


def sums(
    counter: Counter, windows: Windows, *, name: str = "", fresh_within: str = DEFAULT_FRESH_WITHIN
) -> list[Feature]:
    """Raw sums of a counter, for example ``item_clicks_1h``."""
    return [
        Sum(_name(counter, name or counter.name, w), counter, w, duration_ms(fresh_within))
        for w in _windows(windows)
    ]


def rate(
    clicks: Counter,
    shown: Counter,
    windows: Windows,
    *,
    name: str,
    prior: Literal["traffic"] | float = "traffic",
    strength: float = 50.0,
    otherwise: float = 0.1,
    fresh_within: str = DEFAULT_FRESH_WITHIN,
) -> list[Feature]:
    """A smoothed rate, for example ``item_ctr_1h``; see :class:`Rate`.

    A number as ``prior`` is a constant prior mean; ``"traffic"`` takes the traffic's own rate,
    and ``otherwise`` until there is any.
    """
    constant = prior if isinstance(prior, (int, float)) else otherwise
    towards: Literal["traffic"] | None = "traffic" if prior == "traffic" else None
    fresh_ms = duration_ms(fresh_within)
    return [
        Rate(_name(clicks, name, w), clicks, shown, w, towards, strength, constant, fresh_ms)
        for w in _windows(windows)
    ]


def wilson(
    clicks: Counter,
    shown: Counter,
    windows: Windows,
    *,
    name: str,
    z: float = 1.96,
    fresh_within: str = DEFAULT_FRESH_WITHIN,
) -> list[Feature]:
    """Wilson's lower bound of a rate, for example ``item_ctr_low_1h``."""
    return [
        WilsonBound(_name(clicks, name, w), clicks, shown, w, z, duration_ms(fresh_within))
        for w in _windows(windows)
    ]


def mean(
    numerator: Counter,
    denominator: Counter,
    windows: Windows,
    *,
    name: str,
    bounded: bool = False,
    fresh_within: str = DEFAULT_FRESH_WITHIN,
) -> list[Feature]:
    """One counter per another; ``bounded`` where it is a share that cannot exceed one."""
    fresh_ms = duration_ms(fresh_within)
    return [
        Mean(_name(numerator, name, w), numerator, denominator, w, bounded, fresh_ms)
        for w in _windows(windows)
    ]


def coec(
    clicks: Counter,
    shown: Counter,
    windows: Windows,
    *,
    name: str = "coec",
    strength: float = 5.0,
    fresh_within: str = DEFAULT_FRESH_WITHIN,
) -> list[Feature]:
    """Clicks over expected clicks, for example ``item_coec_1d``."""
    fresh_ms = duration_ms(fresh_within)
    return [
        ClicksOverExpected(_name(clicks, name, w), clicks, shown, w, strength, fresh_ms)
        for w in _windows(windows)
    ]


def _windows(windows: Windows) -> list[Window]:
    return [Window.of(w) for w in ([windows] if isinstance(windows, str) else windows)]


def _name(counter: Counter, name: str, window: Window) -> str:
    return f"{counter.entity.name}_{name}_{window}"
