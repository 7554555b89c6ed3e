"""Deleting the entities that no reader can see any more, as fast as there are any.

Keys have no expiry, because a clock would decide data then: the writer goes over all of them, round
after round. How fast is a matter of memory and of Redis's time only; nobody sees the difference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tenuto.features.store import Store

# A step that deletes at least this share of the keys that it looks at is followed by another one
# at once: so about twice this share of the keys is dead, at most, whatever the churn is.
BUSY_SHARE = 1 / 8
# A step holds Redis for about half a millisecond.
STEP_KEYS = 300


@dataclass(frozen=True, slots=True)
class Held:
    """What a whole round has found of one view.

    Attributes:
        entities: that it left there.
        bytes: that they take in Redis, from a sample of them.
    """

    entities: int
    bytes: int


class Sweeper:
    """Goes over the keys of one bucket after the other.

    Args:
        stores: to be swept, of one layout.
        clock_s: how long a turn has lasted.

    Attributes:
        held: by entity name, as of the last whole round; empty before it.
    """

    def __init__(
        self, stores: Sequence[Store], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.held: dict[str, Held] = {}
        self._stores = stores
        self._at = 0
        self._clock_s = clock_s
        self._cursor = 0
        self._round = self._empty()

    def turn(self, slowest_arrival_ms: int, most_s: float) -> int:
        """A step, and more of them while much is deleted and ``most_s`` is not over.

        Returns:
            Keys deleted.
        """
        until_s, deleted = self._clock_s() + most_s, 0
        while True:
            store = self._stores[self._at]
            swept = store.sweep(slowest_arrival_ms, self._cursor, STEP_KEYS)
            deleted += swept.deleted
            looked = swept.deleted
            for total, found in zip(self._round, swept.views, strict=True):
                looked += found[0]
                for field, value in enumerate(found):
                    total[field] += value
            self._cursor = swept.cursor
            if not self._cursor:
                self._at = (self._at + 1) % len(self._stores)
                if not self._at:
                    self._end_round()
            # A sparse part of the keyspace, or a whole one of another layout, says nothing.
            busy = swept.deleted and swept.deleted >= BUSY_SHARE * looked
            if not busy or self._clock_s() >= until_s:
                return deleted

    def _end_round(self) -> None:
        views = self._stores[0].layout.views
        for view, (entities, asked, n_bytes) in zip(views, self._round, strict=True):
            mean = n_bytes / asked if asked else 0.0
            self.held[view.entity.name] = Held(entities, round(entities * mean))
        self._round = self._empty()

    def _empty(self) -> list[list[int]]:
        return [[0, 0, 0] for _ in self._stores[0].layout.views]
