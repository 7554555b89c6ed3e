"""One item of one snapshot as formulas read it: window sums at its prefix, and its context."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tenuto.features.entities import Counter
from tenuto.features.windows import Window
from tenuto.snapshot.audit.judging import JudgedEvent
from tenuto.snapshot.audit.prefix import BucketPositions, Positions, Prefixes, Tiles
from tenuto.snapshot.audit.stored import Ids, StoredEntity


class Read:
    """What is common to the items of a snapshot.

    Args:
        prefixes: all events that count.
        positions: the prefix that was read.
        fields: of the snapshot.
        changes: events to add to the prefix, or to take away, each with how many times; for
            questions of the kind "what would the value be if".
        tiles_later: so many tiles are both edges of every window moved on, or the first or the
            last one only; ``(0, 0)`` is right.
    """

    def __init__(
        self,
        prefixes: Prefixes,
        positions: Positions | BucketPositions,
        fields: Mapping[str, Any],
        changes: Sequence[tuple[JudgedEvent, int]] = (),
        tiles_later: tuple[int, int] = (0, 0),
    ) -> None:
        self.fields = fields
        self.as_of: int = fields["as_of"]
        self.prefixes = prefixes
        self._positions = positions
        self._changes = changes
        self._later = tiles_later
        self._sums: dict[tuple[str, Ids, int], list[int]] = {}
        self._seen: dict[tuple[str, Ids], bool] = {}
        self._tiles: dict[tuple[str, Ids], Tiles] = {}

    def edges(self, window: Window) -> tuple[int, int]:
        """A window's tiles: those above the first and up to the second."""
        now = self.as_of // window.tile_ms
        first, last = self._later
        return now - window.length_ms // window.tile_ms + first, now + last

    def sums(self, name: str, ids: Ids, index: int) -> list[int]:
        """What the cells of an entity add up to over the window of that index."""
        found = self._sums.get((name, ids, index))
        if found is None:
            kept = self.prefixes.stored[name].windows[index]
            low, high = self.edges(kept.window)
            found = [0] * len(kept.cells)
            for tile, row in self._window(name, ids, index).items():
                if low < tile <= high:
                    found = [
                        total + cell.limited(value)
                        for total, cell, value in zip(found, kept.cells, row, strict=True)
                    ]
            self._sums[name, ids, index] = found
        return found

    def first_tile(self, name: str, ids: Ids, index: int, places: list[int]) -> int | None:
        """The oldest tile of a window in which one of these cells is not zero."""
        low, high = self.edges(self.prefixes.stored[name].windows[index].window)
        tiles = self._window(name, ids, index)
        filled = [
            tile
            for tile, row in tiles.items()
            if low < tile <= high and any(row[place] for place in places)
        ]
        return min(filled, default=None)

    def seen(self, name: str, ids: Ids) -> bool:
        """Whether an entity has a tile that is not empty in its longest window."""
        found = self._seen.get((name, ids))
        if found is None:
            stored = self.prefixes.stored[name]
            index = stored.windows.index(stored.longest)
            places = list(range(len(stored.longest.cells)))
            found = self.first_tile(name, ids, index, places) is not None
            self._seen[name, ids] = found
        return found

    def _window(self, name: str, ids: Ids, index: int) -> dict[int, list[int]]:
        if (name, ids) not in self._tiles:
            self._tiles[name, ids] = self._changed(name, ids)
        return self._tiles[name, ids].windows[index]

    def _changed(self, name: str, ids: Ids) -> Tiles:
        stored = self.prefixes.stored[name]
        tiles = self.prefixes.tiles(name, ids, self._positions)
        mine = [
            (event, times)
            for event, times in self._changes
            if event.event in stored.topics and stored.ids(event.fields) == ids
        ]
        if not mine:
            return tiles
        copy = Tiles([{tile: list(row) for tile, row in w.items()} for w in tiles.windows])
        for event, times in mine:
            copy.apply(stored, event, times)
        return copy


class ItemMoment:
    """One item of a read.

    Args:
        is_known: taken to be seen, whatever the log says.
    """

    def __init__(self, read: Read, item: int, *, is_known: bool = False) -> None:
        self._is_known = is_known
        self.request_ts_ms: int = read.fields["request_ts"]
        self._read = read
        self._item = item
        self._ids: dict[int, Ids | None] = {}

    def ids(self, stored: StoredEntity) -> Ids | None:
        """Which entity the item, the request and the context name; None where one is not given."""
        if stored.index not in self._ids:
            self._ids[stored.index] = self._ids_of(stored)
        return self._ids[stored.index]

    def _ids_of(self, stored: StoredEntity) -> Ids | None:
        parts = []
        for name in stored.entity.key:
            if name == "item_id":
                part = self._read.fields["items"][self._item]
            elif name in self._read.fields["context"]:
                part = self._given(name)
            else:
                part = self._read.fields.get(name) if name in ("user_id", "query") else None
            if part is None:
                return None
            parts.append(str(part))
        return tuple(parts)

    def total(self, counter: Counter, window: Window) -> int:
        found = self._sums(counter, window)
        return _as_int64(sum(found)) if found else 0

    def by_position(self, counter: Counter, window: Window) -> list[int]:
        return self._sums(counter, window)

    def first_seen_ms(self, counter: Counter, window: Window) -> int | None:
        name = counter.entity.name
        stored = self._read.prefixes.stored[name]
        ids = self.ids(stored)
        if ids is None:
            return None
        index, places = stored.place(counter.measure, window)
        tile = self._read.first_tile(name, ids, index, places)
        return None if tile is None else tile * window.tile_ms

    def seen(self, counter: Counter) -> bool:
        ids = self.ids(self._read.prefixes.stored[counter.entity.name])
        return ids is not None and (self._is_known or self._read.seen(counter.entity.name, ids))

    def context(self, name: str) -> float | None:
        if self._read.fields["context"].get(name) is None:
            return None
        given = self._given(name)
        return math.nan if given is None else float(given)

    def _given(self, name: str) -> Any:
        given = self._read.fields["context"][name]
        return given[self._item] if isinstance(given, list) else given

    def _sums(self, counter: Counter, window: Window) -> list[int]:
        stored = self._read.prefixes.stored[counter.entity.name]
        ids = self.ids(stored)
        index, places = stored.place(counter.measure, window)
        if ids is None:
            return [0] * len(places)
        found = self._read.sums(counter.entity.name, ids, index)
        return [found[place] for place in places]


def _as_int64(total: int) -> int:
    return (total + 2**63) % 2**64 - 2**63
