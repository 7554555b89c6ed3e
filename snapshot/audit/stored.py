"""What the store keeps, derived from the declared features alone, as docs/features.md says.

Names, order and sizes only; the bytes are taken apart in ``state.py``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tenuto.features.entities import Entity, Measure
from tenuto.features.feature import Feature
from tenuto.features.rules import TimeRules
from tenuto.features.windows import Window

BUCKET_EDGES = (0, 1, 2, 4, 8, 16)
BUCKETS = len(BUCKET_EDGES) + 1

Ids = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoredCell:
    """One number of a tile: a measure's, of one position bucket where it is kept by position."""

    measure: Measure
    bucket: int | None

    @property
    def definition(self) -> str:
        """Its name in dumps: ``clicks by position[3]``."""
        at = "" if self.bucket is None else f"[{self.bucket}]"
        return f"{self.measure.definition}{at}"

    def limited(self, value: int) -> int:
        """As the store holds it: counts end at 2**32 − 1, sums at 64 bits."""
        if self.measure.field is None:
            return min(value, 2**32 - 1)
        return max(-(2**63), min(value, 2**63 - 1))


@dataclass(frozen=True)
class StoredWindow:
    """One window of an entity: its cells in stored order, and how many tiles its ring has."""

    window: Window
    cells: tuple[StoredCell, ...]
    ring: int

    def places(self, measure: Measure) -> list[int]:
        """The cells that add up to a measure."""
        exact = [at for at, cell in enumerate(self.cells) if cell.measure == measure]
        if exact:
            return exact
        twin = Measure(measure.event, measure.field, measure.where, by_position=True)
        return [at for at, cell in enumerate(self.cells) if cell.measure == twin]


Fed = tuple[StoredCell, list[tuple[int, int]]]
"""A cell, and where it is: index of the window, index in it."""


@dataclass(frozen=True)
class StoredEntity:
    """All that is kept of one kind of entity; ``windows`` from the shortest to the longest."""

    index: int
    entity: Entity
    windows: tuple[StoredWindow, ...]
    # What is asked again and again is looked up once.
    _places: dict[tuple[Measure, Window], tuple[int, list[int]]] = field(default_factory=dict)
    _fed: dict[str, list[Fed]] = field(default_factory=dict)

    @property
    def longest(self) -> StoredWindow:
        """What decides whether it was seen."""
        return max(self.windows, key=lambda stored: stored.window.length_ms)

    @property
    def topics(self) -> set[str]:
        """Event streams that feed it."""
        return {c.measure.event.name for stored in self.windows for c in stored.cells}

    def place(self, measure: Measure, window: Window) -> tuple[int, list[int]]:
        """Which of its windows that is, and which of the cells there add up to the measure."""
        found = self._places.get((measure, window))
        if found is None:
            index = next(i for i, kept in enumerate(self.windows) if kept.window == window)
            found = self._places[measure, window] = index, self.windows[index].places(measure)
        return found

    def fed_by(self, event: str) -> list[Fed]:
        """The cells that a record of an event can add to, each once."""
        if event not in self._fed:
            found: dict[StoredCell, list[tuple[int, int]]] = {}
            for index, kept in enumerate(self.windows):
                for at, cell in enumerate(kept.cells):
                    if cell.measure.event.name == event:
                        found.setdefault(cell, []).append((index, at))
            self._fed[event] = list(found.items())
        return self._fed[event]

    def ids(self, fields: Mapping[str, Any]) -> Ids:
        """Whose numbers an event adds to."""
        return tuple(str(fields[name]) for name in self.entity.key)

    def key(self, ids: Ids) -> bytes:
        """Its key in the store, without the prefix."""
        *heads, last = [part.encode() for part in ids] or [b""]
        return b"%d:" % self.index + b"".join(b"%d:%s" % (len(h), h) for h in heads) + last

    def chunk(self, ids: Ids, chunks: int) -> int:
        """Into which of so many chunks of a batch it falls."""
        return zlib.crc32(self.key(ids)) % chunks

    def lives_in(self, ids: Ids, buckets: int) -> int:
        """In which of so many buckets of the store it is kept."""
        if buckets == 1:
            return 0
        # MurmurHash3's last steps over the CRC-32, scaled to the number of buckets.
        h = zlib.crc32(self.key(ids))
        h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
        h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
        return (h ^ (h >> 16)) * buckets // 2**32


def stored_entities(features: Iterable[Feature], rules: TimeRules) -> list[StoredEntity]:
    """What is stored for these features: entities by name, windows by length."""
    wanted: dict[Entity, dict[Window, set[Measure]]] = {}
    for feature in features:
        for counter, window in feature.needs:
            windows = wanted.setdefault(counter.entity, {})
            windows.setdefault(window, set()).add(counter.measure)
    found = []
    for index, entity in enumerate(sorted(wanted, key=lambda entity: entity.name)):
        windows = wanted[entity]
        found.append(
            StoredEntity(
                index,
                entity,
                tuple(
                    StoredWindow(window, _cells(windows[window]), _ring(window, rules))
                    for window in sorted(windows)
                ),
            )
        )
    return found


def bucket_of(position: int) -> int:
    """The position bucket of a record, the last one where the position is not known."""
    if position < 0:
        return len(BUCKET_EDGES)
    return max(at for at, edge in enumerate(BUCKET_EDGES) if position >= edge)


def amount(measure: Measure, event: str, fields: Mapping[str, Any]) -> int:
    """What one event adds to a measure, whatever its bucket."""
    if event != measure.event.name:
        return 0
    if measure.where == "position":
        if fields["position"] < 0:
            return 0
    elif measure.where is not None and not fields[measure.where]:
        return 0
    return 1 if measure.field is None else int(fields[measure.field])


def _ring(window: Window, rules: TimeRules) -> int:
    def tiles(ms: int) -> int:
        return (ms + window.tile_ms - 1) // window.tile_ms

    return tiles(window.length_ms) + tiles(rules.future_ms) + tiles(rules.slack_ms) + 1


def _cells(measures: set[Measure]) -> tuple[StoredCell, ...]:
    # Sums before counts; a count that is kept by position is not kept a second time.
    split = {(m.event.name, m.field, m.where) for m in measures if m.by_position}
    kept = [m for m in measures if m.by_position or (m.event.name, m.field, m.where) not in split]
    cells = []
    for measure in sorted(kept, key=lambda m: (m.field is None, m.definition)):
        buckets = range(BUCKETS) if measure.by_position else [None]
        cells += [StoredCell(measure, bucket) for bucket in buckets]
    return tuple(cells)
