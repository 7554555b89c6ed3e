"""A reader of a store that was lost, is partly rebuilt, or lacks events: never a cold item."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import redis
from test_store_and_reader import LIFE, START_MS, World, event

from tenuto.features.matrix import Matrix, State
from tenuto.features.progress import UNKNOWN_ARRIVAL, Entry
from tenuto.features.reader import Request
from tenuto.presets import video

HOUR_MS, DAY_MS = 3_600_000, 86_400_000


@pytest.fixture
def world(redis_url: str) -> World:
    """Two partitions of each topic, all read to now; ``i1`` has one of each event."""
    world = World(redis_url, video.small, partitions=2)
    rnd = random.Random(1)
    for topic in world.set.layout.topics:
        record = event(rnd, topic, START_MS) | {"item_id": "i1", "user_id": "u1", "query": "q1"}
        world.add(topic, [record], START_MS)
        world.add(topic, [], START_MS, partition=1)
    return world


def read(world: World, as_of_ms: int = START_MS) -> Matrix:
    request = Request("x", "u1", "q1", as_of_ms)
    return world.client.read(request, ["i1", "cold"], timeout_ms=5_000, as_of_ms=as_of_ms)


def states(matrix: Matrix, column: str) -> list[int]:
    return [int(state) for state in matrix.state(column)]


def put(world: World, topic: str, partition: int, **changes: int) -> None:
    slot, entry = world.store.slot(topic, partition), world.entries[topic, partition]
    found = world.store.replace(slot, entry, replace(entry, **changes))
    assert found is not None
    world.entries[topic, partition] = found


def test_an_item_that_was_never_seen_is_missing_where_everything_is_there(world: World) -> None:
    matrix = read(world)
    assert states(matrix, "item_clicks_1h") == [State.FRESH, State.MISSING]
    assert not matrix.rebuilding
    assert matrix.share(State.REBUILDING) == 0.0


def test_every_value_of_an_emptied_store_is_rebuilding(world: World) -> None:
    fed = [f.name for f in world.set.features if f.topics]
    world.store.client.flushall()
    matrix = read(world)
    assert all(states(matrix, name) == [State.REBUILDING] * 2 for name in fed)
    assert matrix.rebuilding
    assert matrix.share(State.REBUILDING) == len(fed) / len(matrix.columns)


@pytest.mark.parametrize("seed", range(4))
def test_one_partition_that_is_not_there_yet_is_enough(world: World, seed: int) -> None:
    """In whatever order the partitions are entered and rebuilt, nothing is fresh or missing."""
    rnd = random.Random(seed)
    fed = [f.name for f in world.set.features if f.topics == {"clicks"}]
    assert fed
    world.store.client.flushall()
    order = [(topic, p) for topic in world.set.layout.topics for p in range(2)]
    rnd.shuffle(order)
    while any(("clicks", p) in order for p in range(2)):
        matrix = read(world)
        assert all(states(matrix, name) == [State.REBUILDING] * 2 for name in fed)
        topic, partition = order.pop()
        slot = world.store.slot(topic, partition)
        world.store.begin(slot, LIFE, 0, rebuild_until=0, arrival=START_MS)


def test_an_item_that_only_a_rebuilding_topic_knows_is_not_missing(world: World) -> None:
    """Clicks are all there; whether an item was ever shown, impressions must say."""
    put(world, "impressions", 1, rebuild_until=10)
    matrix = read(world)
    assert states(matrix, "item_clicks_1h") == [State.FRESH, State.REBUILDING]
    put(world, "impressions", 1, rebuild_until=0)
    assert states(read(world), "item_clicks_1h") == [State.FRESH, State.MISSING]


def test_that_an_item_was_not_seen_is_stale_while_a_topic_that_would_show_it_is(
    world: World,
) -> None:
    later = START_MS + 10 * 60_000
    for topic in ("clicks", "plays", "likes"):
        if topic in world.set.layout.topics:
            for partition in range(2):
                world.add(topic, [], later, partition)
    matrix = read(world, later)
    assert states(matrix, "item_clicks_1h") == [State.FRESH, State.STALE]


@pytest.mark.parametrize(("column", "window_ms"), [("item_clicks_1h", HOUR_MS)])
def test_a_gap_is_told_until_nothing_that_is_missing_can_lie_in_the_window(
    world: World, column: str, window_ms: int
) -> None:
    """The last that is missing arrived at the origin, and says that it is ``future`` later."""
    future_ms = world.set.layout.rules.future_ms
    put(world, "clicks", 0, origin=5, origin_arrival=START_MS)
    end = START_MS + window_ms + future_ms
    for as_of, expected in ((end - 1, State.REBUILDING), (end, State.FRESH)):
        for topic, partition in world.entries:
            world.add(topic, [], as_of, partition)
        assert states(read(world, as_of), column)[0] == expected


def test_a_gap_in_the_longest_window_makes_missing_items_rebuilding(world: World) -> None:
    """The hour is complete again, but an item may have been seen only within the gap."""
    put(world, "clicks", 0, origin=5, origin_arrival=START_MS)
    as_of = START_MS + 2 * HOUR_MS
    for topic, partition in world.entries:
        world.add(topic, [], as_of, partition)
    assert states(read(world, as_of), "item_clicks_1h") == [State.FRESH, State.REBUILDING]
    as_of = START_MS + 8 * DAY_MS
    for topic, partition in world.entries:
        world.add(topic, [], as_of, partition)
    assert states(read(world, as_of), "item_clicks_1h") == [State.MISSING, State.MISSING]


def test_an_origin_whose_arrival_nobody_knows_is_rebuilding_for_ever(world: World) -> None:
    put(world, "clicks", 0, origin=5, origin_arrival=UNKNOWN_ARRIVAL)
    as_of = START_MS + 365 * DAY_MS
    for topic, partition in world.entries:
        world.add(topic, [], as_of, partition)
    assert states(read(world, as_of), "item_clicks_1h") == [State.REBUILDING] * 2


def test_an_older_store_is_a_whole_prefix_and_says_how_old_it_is(redis_url: str) -> None:
    """Restored from a dump: what it has is right, as of then; none of it is cold."""
    world = World(redis_url, video.small)
    rnd = random.Random(3)
    topics = world.set.layout.topics
    for topic in topics:
        record = event(rnd, topic, START_MS) | {"item_id": "i1", "user_id": "u1", "query": "q1"}
        world.add(topic, [record], START_MS)
    client: redis.Redis = world.store.client
    dump = {key: client.get(key) for key in client.scan_iter()}
    later = START_MS + 10 * 60_000
    for topic in topics:
        record = event(rnd, topic, later) | {"item_id": "cold", "user_id": "u1", "query": "q1"}
        world.add(topic, [record], later)
    assert states(read(world, later), "item_clicks_1h") == [State.FRESH, State.FRESH]
    client.flushall()
    client.mset(dump)  # type: ignore[arg-type]
    assert states(read(world, later), "item_clicks_1h") == [State.STALE, State.STALE]
    assert states(read(world), "item_clicks_1h") == [State.FRESH, State.MISSING]
    slot = world.store.slot("clicks", 0)
    entry: Entry | None = world.store.entry(slot)
    assert entry is not None
    assert entry.arrival == START_MS
