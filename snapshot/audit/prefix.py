"""The state at any prefix of the log: each entity's events, added and taken away one by one.

Sums are integers, so an entity's tiles can be moved from one prefix to another, forwards or
backwards, exactly.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tenuto.snapshot.audit.judging import JudgedEvent
from tenuto.snapshot.audit.stored import Ids, StoredEntity, amount, bucket_of

At = tuple[str, int]
"""A topic and one of its partitions."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far one partition is in the state.

    Attributes:
        origin, next: offsets ``[origin, next)`` are in it.
        end, chunks, done: of a batch in progress, whose records ``[next, end)`` are in the state
            of the entities of the first ``done`` of ``chunks``; zeros for none.
    """

    origin: int
    next: int
    end: int = 0
    chunks: int = 0
    done: int = 0


Positions = Mapping[At, Reached]


@dataclass(frozen=True, slots=True)
class BucketPositions:
    """Positions of a store that is kept in several buckets, by the number of the bucket.

    Attributes:
        buckets: how many there are; ``of`` need not have them all.
    """

    buckets: int
    of: Mapping[int, Positions]

    def for_entity(self, stored: StoredEntity, ids: Ids) -> Positions:
        """How far its bucket is read; nowhere where that is not said."""
        return self.of.get(stored.lives_in(ids, self.buckets), {})


@dataclass(slots=True)
class Tiles:
    """One entity's sums.

    Attributes:
        windows: by the entity's windows, tile to the values of its cells.
        newest: by window, the newest tile that an event fell into, whatever it added.
    """

    windows: list[dict[int, list[int]]]

    def apply(self, stored: StoredEntity, event: JudgedEvent, times: int) -> None:
        """Add an event so many times (negative: take away)."""
        ts: int = event.fields["ts"]
        bucket = bucket_of(event.fields["position"])
        rows = []
        for window, tiles in zip(stored.windows, self.windows, strict=True):
            tile = ts // window.window.tile_ms
            row = tiles.get(tile)
            if row is None:
                row = tiles[tile] = [0] * len(window.cells)
            rows.append(row)
        for cell, places in stored.fed_by(event.event):
            if cell.bucket is None or cell.bucket == bucket:
                added = times * amount(cell.measure, event.event, event.fields)
                for window_index, at in places:
                    rows[window_index][at] += added


@dataclass(slots=True)
class _History:
    """One entity's events, by partition in offset order, and where its tiles stand."""

    tiles: Tiles
    offsets: dict[At, list[int]] = field(default_factory=dict)
    events: dict[At, list[JudgedEvent]] = field(default_factory=dict)
    stands: dict[At, tuple[int, int]] = field(default_factory=dict)


class Prefixes:
    """Every event that counts, by the entities that it adds to.

    Args:
        stored: what is kept.
        events: by topic, by partition, those that count, in offset order.
    """

    def __init__(
        self,
        stored: Sequence[StoredEntity],
        events: Mapping[str, Sequence[Sequence[JudgedEvent]]],
    ) -> None:
        self.stored = {entity.entity.name: entity for entity in stored}
        self._histories: dict[tuple[str, Ids], _History] = {}
        for entity in stored:
            for topic in sorted(entity.topics):
                for partition, found in enumerate(events.get(topic, ())):
                    for event in found:
                        self._keep(entity, (topic, partition), event)

    def entities(self) -> Iterable[tuple[str, Ids]]:
        """Every entity that an event adds to, by the name of its kind and its ids."""
        return list(self._histories)

    def tiles(self, name: str, ids: Ids, positions: Positions | BucketPositions) -> Tiles:
        """An entity's sums at these positions; valid until it is asked for again."""
        history = self._histories.get((name, ids))
        stored = self.stored[name]
        if isinstance(positions, BucketPositions):
            positions = positions.for_entity(stored, ids)
        if history is None:
            return Tiles([{} for _ in stored.windows])
        for at, offsets in history.offsets.items():
            reached = positions.get(at)
            low = high = 0
            if reached is not None:
                low = bisect_left(offsets, reached.origin)
                high = max(low, bisect_left(offsets, self._end(stored, ids, reached)))
            self._move(history, stored, at, low, high)
        return history.tiles

    def events(
        self, name: str, ids: Ids, positions: Positions | BucketPositions
    ) -> list[tuple[JudgedEvent, bool]]:
        """All events of an entity, and whether they are in its state at these positions."""
        history = self._histories.get((name, ids))
        if isinstance(positions, BucketPositions):
            positions = positions.for_entity(self.stored[name], ids)
        found = []
        for at, events in history.events.items() if history else ():
            reached = positions.get(at, Reached(0, 0))
            end = self._end(self.stored[name], ids, reached)
            found += [(event, reached.origin <= event.offset < end) for event in events]
        return sorted(found, key=lambda one: (one[0].arrival_ms, one[0].event, one[0].partition,
                                              one[0].offset))  # fmt: skip

    @staticmethod
    def _end(stored: StoredEntity, ids: Ids, reached: Reached) -> int:
        if reached.end and stored.chunk(ids, reached.chunks) < reached.done:
            return reached.end
        return reached.next

    def _keep(self, entity: StoredEntity, at: At, event: JudgedEvent) -> None:
        name = entity.entity.name, entity.ids(event.fields)
        history = self._histories.get(name)
        if history is None:
            history = _History(Tiles([{} for _ in entity.windows]))
            self._histories[name] = history
        history.offsets.setdefault(at, []).append(event.offset)
        history.events.setdefault(at, []).append(event)

    @staticmethod
    def _move(history: _History, stored: StoredEntity, at: At, low: int, high: int) -> None:
        had_low, had_high = history.stands.get(at, (low, low))
        if (had_low, had_high) == (low, high):
            return
        events, tiles = history.events[at], history.tiles
        if max(low, had_low) >= min(high, had_high):
            changes = [(range(had_low, had_high), -1), (range(low, high), 1)]
        else:
            changes = [
                (range(had_low, low), -1),
                (range(low, had_low), 1),
                (range(high, had_high), -1),
                (range(had_high, high), 1),
            ]
        for indices, times in changes:
            for index in indices:
                tiles.apply(stored, events[index], times)
        history.stands[at] = (low, high)
