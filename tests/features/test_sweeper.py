"""Redis's memory follows the ids that are alive: what is dead goes as fast as new ids come."""

from __future__ import annotations

import numpy as np
import pytest
import redis

from tenuto.features.aggregate import Aggregator
from tenuto.features.entities import Entity, count
from tenuto.features.progress import Entry
from tenuto.features.rules import TimeRules
from tenuto.features.schema import FeatureSet
from tenuto.features.store import Store
from tenuto.features.sweeper import BUSY_SHARE, STEP_KEYS, Sweeper
from tenuto.features.values import sums
from tenuto.presets.video_events import clicks

T = 1_700_000_000_000
ITEM = Entity("item", "item_id", {"clicks": count(clicks)})
SHORT = FeatureSet.of(sums(ITEM.clicks, ("1m", "4m")), TimeRules())
# After so long without an event an entity can be seen by nobody.
GONE_MS = 240_000 + 300_000 + 30_000 + 5_000 + 20_000


class Clicks:
    """A store, and clicks on items that are clicked on once each."""

    def __init__(self, url: str) -> None:
        client = redis.Redis.from_url(url)
        client.flushall()
        self.store = Store(client, SHORT.layout, 1)
        self.slot = self.store.slot("clicks", 0)
        self.entry: Entry = self.store.begin(self.slot, b"x" * 16, 0)
        self.aggregator = Aggregator(SHORT.layout)

    def add(self, new: int, ts_ms: int) -> None:
        start = self.entry.next
        columns = {
            "ts": np.full(new, ts_ms, np.int64),
            "position": np.zeros(new, np.int64),
            "item_id": [f"i{number}" for number in range(start, start + new)],
        }
        deltas = self.aggregator.deltas("clicks", columns)
        self.entry = self.store.apply(self.slot, self.entry, start + new, ts_ms, deltas)

    @property
    def entities(self) -> int:
        return int(self.store.client.dbsize()) - 1


@pytest.fixture
def churning(redis_url: str) -> Clicks:
    return Clicks(redis_url)


@pytest.mark.stack
def test_with_ever_new_ids_most_of_what_is_stored_is_alive(churning: Clicks) -> None:
    """Ids come at the rate at which a worker's turns come; one look at each key per life of it
    would let as many dead keys stand there as living ones."""
    sweeper = Sweeper([churning.store])
    alive_turns, new = 20, 500
    step_ms = GONE_MS // alive_turns
    most = 0
    for turn in range(6 * alive_turns):
        churning.add(new, T + turn * step_ms)
        sweeper.turn(T + turn * step_ms, 60.0)
        if turn > 2 * alive_turns:
            most = max(most, churning.entities)
    alive = (alive_turns + 1) * new
    assert most < alive * (1 + 3 * BUSY_SHARE)
    assert sweeper.held["item"].entities > alive / 2


@pytest.mark.stack
def test_a_turn_is_one_step_where_nothing_is_dead_and_ends_in_time_where_all_is(
    churning: Clicks,
) -> None:
    churning.add(20 * STEP_KEYS, T)
    looks = iter(range(1_000))
    sweeper = Sweeper([churning.store], lambda: float(next(looks)))
    assert sweeper.turn(T, 60.0) == 0
    assert next(looks) == 1, "it asked for the time once, at its start"
    deleted = sweeper.turn(T + GONE_MS, 3.0)
    assert 2 * STEP_KEYS < deleted < 6 * STEP_KEYS, "about three steps"


@pytest.mark.stack
def test_a_whole_round_tells_how_many_entities_there_are_and_what_they_take(
    churning: Clicks,
) -> None:
    churning.add(5_000, T)
    before: int = churning.store.client.info("memory")["used_memory"]
    sweeper = Sweeper([churning.store])
    while not sweeper.held:
        sweeper.turn(T, 0.0)
    held = sweeper.held["item"]
    assert held.entities == pytest.approx(5_000, rel=0.01)
    assert 5_000 * SHORT.layout.view(ITEM).size < held.bytes < before
    health = churning.store.health()
    assert (health.used_bytes > held.bytes, health.max_bytes) == (True, 0)
