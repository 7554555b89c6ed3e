"""Features the slow way: lists of events and loops, sharing no code with ``tenuto.features``.

Follows the definitions in the documentation; only the declarations' plain attributes (names,
windows, measures) are read.
"""

from __future__ import annotations

import math
import struct
from typing import Any

EDGES = [0, 1, 2, 4, 8, 16]
NAN_BITS = 0x7FC00000


def bucket(position: int | None) -> int:
    if position is None or position < 0:
        return len(EDGES)
    return max(i for i, edge in enumerate(EDGES) if position >= edge)


def amount(measure: Any, event: dict[str, Any]) -> int:
    """What one event adds to a measure."""
    if event["event"] != measure.event.name:
        return 0
    if measure.where == "position":
        if event["position"] < 0:
            return 0
    elif measure.where is not None and not event[measure.where]:
        return 0
    return 1 if measure.field is None else int(event[measure.field])


class Oracle:
    """Every event that counts, and what it says at a moment."""

    def __init__(self, features: list[Any], longest: dict[str, Any]) -> None:
        self.features = features
        self.longest = longest
        self.events: list[dict[str, Any]] = []

    def in_window(self, window: Any, as_of: int) -> list[dict[str, Any]]:
        tile = window.tile_ms
        low = as_of // tile - window.length_ms // tile
        return [e for e in self.events if low < e["ts"] // tile <= as_of // tile]

    def of(self, entity: Any, ids: dict[str, str], events: list[Any]) -> list[Any]:
        return [e for e in events if all(e.get(k) == ids.get(k) for k in entity.key)]

    def total(self, counter: Any, window: Any, ids: dict[str, str], as_of: int) -> int:
        events = self.of(counter.entity, ids, self.in_window(window, as_of))
        return sum(amount(counter.measure, e) for e in events)

    def split(self, counter: Any, window: Any, ids: dict[str, str], as_of: int) -> list[int]:
        sums = [0] * (len(EDGES) + 1)
        for e in self.of(counter.entity, ids, self.in_window(window, as_of)):
            sums[bucket(e["position"])] += amount(counter.measure, e)
        return sums

    def known(self, entity: Any, ids: dict[str, str], as_of: int) -> bool:
        window, measures = self.longest[entity.name]
        events = self.of(entity, ids, self.in_window(window, as_of))
        return any(amount(m, e) for e in events for m in measures)

    def value(self, f: Any, ids: dict[str, str], request: Any, context: Any, as_of: int) -> float:
        kind = f.definition["kind"]
        traffic: dict[str, str] = {}
        if f.needs and kind != "age" and not self.known(f.needs[0][0].entity, ids, as_of):
            return math.nan
        if kind == "sum":
            return float(self.total(f.counter, f.window, ids, as_of))
        if kind == "rate":
            n = self.total(f.shown, f.window, ids, as_of)
            c = min(self.total(f.clicks, f.window, ids, as_of), n)
            prior = f.otherwise
            if f.prior == "traffic":
                t = type(f.shown.entity)("traffic")
                tn = self.total(f.shown.on(t), f.window, traffic, as_of)
                tc = min(self.total(f.clicks.on(t), f.window, traffic, as_of), tn)
                prior = float(tc) / float(tn) if tn else f.otherwise
            return (float(c) + f.strength * prior) / (float(n) + f.strength)
        if kind == "wilson":
            n = self.total(f.shown, f.window, ids, as_of)
            if n == 0:
                return math.nan
            p = min(self.total(f.clicks, f.window, ids, as_of), n) / float(n)
            zz = f.z * f.z
            centre = p + zz / (2.0 * n)
            spread = f.z * math.sqrt((p * (1.0 - p) + zz / (4.0 * n)) / n)
            return (centre - spread) / (1.0 + zz / n)
        if kind == "mean":
            top = self.total(f.numerator, f.window, ids, as_of)
            bottom = self.total(f.denominator, f.window, ids, as_of)
            top = min(top, bottom) if f.bounded else top
            return float(top) / float(bottom) if bottom else math.nan
        if kind == "coec":
            t = type(f.shown.entity)("traffic")
            own = self.split(f.shown, f.window, ids, as_of)
            shown = self.split(f.shown.on(t), f.window, traffic, as_of)
            clicks = self.split(f.clicks.on(t), f.window, traffic, as_of)
            expected = 0.0
            for mine, n, c in zip(own, shown, clicks, strict=True):
                expected = expected + float(mine) * (float(min(c, n)) / float(n) if n else 0.0)
            c = self.total(f.clicks, f.window, ids, as_of)
            return (float(c) + f.strength) / (expected + f.strength)
        if kind == "age":
            start = context.get(f.published)
            if start is None:
                tile = f.window.tile_ms
                tiles = [
                    e["ts"] // tile
                    for e in self.of(f.counter.entity, ids, self.in_window(f.window, as_of))
                    if amount(f.counter.measure, e)
                ]
                if not tiles:
                    return math.nan
                start = min(tiles) * tile
            return max(float(request.ts_ms) - float(start), 0.0) / 1000.0
        if kind == "hour":
            return float(request.ts_ms // 3_600_000 % 24)
        if kind == "weekday":
            return float((request.ts_ms // 86_400_000 + 3) % 7)
        if kind == "context":
            value = context.get(f.source.name)
            return math.nan if value is None else float(value)
        raise AssertionError(f"no oracle for {kind}")


def bits(value: float) -> int:
    """The float32 bits of a value rounded once, NaN the canonical one."""
    if math.isnan(value):
        return NAN_BITS
    return struct.unpack("<I", struct.pack("<f", value))[0]
