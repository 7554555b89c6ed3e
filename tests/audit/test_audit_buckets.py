"""A store in several buckets: what is read names each one's positions, and the audit uses them."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest
from feature_world import START_MS, World
from test_audit_features import busy, the_one

from tenuto.features.aggregate import entity_key
from tenuto.features.bucket_keys import buckets_of
from tenuto.features.client import AsyncFeatureClient, FeatureClient
from tenuto.features.matrix import State
from tenuto.features.progress import BucketCountError
from tenuto.features.reader import Reader, Request
from tenuto.presets import video
from tenuto.snapshot import record

BUCKETS = 3
ITEMS = [f"i{at}" for at in range(60)]


@pytest.fixture
def world(redis_url: str) -> World:
    """Many items and users, all read."""
    world, rnd = World(redis_url, video.small, buckets=BUCKETS), random.Random(1)
    for at in range(1_200):
        topic = rnd.choice(list(world.records))
        world.write(topic, START_MS + at, item_id=rnd.choice(ITEMS), user_id=rnd.choice("uv"))
    world.apply_all()
    return world


def bucket_of(world: World, name: str, *ids: str) -> int:
    view = next(v for v in world.features.layout.views if v.entity.name == name)
    return int(buckets_of([entity_key(view, ids)], BUCKETS)[0])


@pytest.mark.parametrize("preset", ["small", "full"])
def test_what_is_read_from_buckets_is_equal_bit_for_bit(redis_url: str, preset: str) -> None:
    world = busy(redis_url, getattr(video, preset), buckets=BUCKETS)
    findings = world.audit()
    assert findings.clean, findings.table()
    values = 25 * 3 * len(world.features.columns)
    assert findings.checked["values"] == findings.checked["states"] == values
    assert world.audit_state().clean


def test_the_same_log_gives_the_same_values_in_any_number_of_buckets(redis_url: str) -> None:
    found = []
    for buckets in (1, 2, 7):
        world = busy(redis_url, buckets=buckets)
        read = [msgspec.msgpack.decode(snapshot.value or b"") for snapshot in world.snapshots]
        found.append([(fields["values"], fields["states"]) for fields in read])
        world.redis.flushall()
    assert found[0] == found[1] == found[2]


def test_a_snapshot_of_one_bucket_says_nothing_of_buckets(redis_url: str) -> None:
    world = World(redis_url, video.small)
    world.write("clicks", START_MS)
    world.apply_all()
    world.read(START_MS + 10)
    assert set(world.last["log"]) == {
        "topics", "partitions", "incarnations", "origin", "next", "batches",
    }  # fmt: skip


def test_each_bucket_read_is_stamped_where_it_stood(world: World) -> None:
    """As a read between two buckets' scripts sees them."""
    clicks = world.features.layout.topics.index("clicks")
    before = [entries["clicks"].next for entries in world.of_bucket]
    for at in range(2_000, 2_600):
        world.write("clicks", START_MS + at, item_id=f"i{at % 600}")
    world.apply("clicks", buckets=[0])
    world.apply("clicks", chunks=1, buckets=[1])
    world.read(START_MS + 2_700, ITEMS)
    log = world.last["log"]
    assert (log["buckets"], log["read"]) == (BUCKETS, [0, 1, 2])
    assert log["next"][clicks] == before[0] + 600
    in_progress = world.of_bucket[1]["clicks"]
    assert in_progress.done == 1
    assert log["differing"] == [
        [1, clicks, 0, before[1], before[1] + 600, in_progress.chunks, 1],
        [2, clicks, 0, before[2], 0, 0, 0],
    ]
    findings = world.audit()
    assert findings.clean, findings.table()
    assert findings.checked["values"] > 500
    assert record.decode(world.snapshots[-1].value or b"").log.differing == log["differing"]


def test_a_value_past_its_own_buckets_positions_leaks(world: World) -> None:
    """Another bucket has read that far; this one says that it has not."""
    clicks = world.features.layout.topics.index("clicks")
    item = next(i for i in ITEMS if bucket_of(world, "item", i) == 2)
    world.write("clicks", START_MS + 2_000, item_id=item)
    world.apply_all()
    world.read(START_MS + 2_100, ITEMS)
    assert world.audit().clean
    log = world.last["log"]
    end = log["next"][clicks]
    world.tamper(log={**log, "differing": [[2, clicks, 0, end - 1, 0, 0, 0]]})
    text = the_one(world.audit(), "leaking", "values")
    assert f"clicks[0]@{end - 1} of {item}" in text


def test_values_of_a_bucket_whose_positions_are_not_named_are_found(world: World) -> None:
    world.read(START_MS + 2_000, ITEMS)
    world.tamper(log={**world.last["log"], "read": [0, 2]})
    text = the_one(world.audit(), "mismatching", "positions")
    assert "values of buckets [1], which it does not say were read" in text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"read": [1, 0, 2]}, "must ascend"),
        ({"read": [0, 1, 3]}, "of 3: must ascend"),
        ({"buckets": 1}, "must ascend"),
        ({"differing": [[1, 99, 0, 0, 0, 0, 0]]}, "another bucket that was read"),
        ({"differing": [[0, 1, 0, 0, 0, 0, 0]]}, "another bucket that was read"),
        ({"differing": [[1, 1, 0]]}, "another bucket that was read"),
        ({"differing": [[1, 0, 0, 10**9, 0, 0, 0]]}, "bucket 1 clicks[0]: 1000000000: the log"),
    ],
)
def test_positions_of_buckets_that_cannot_be_are_named(
    world: World, changes: dict[str, Any], text: str
) -> None:
    world.read(START_MS + 2_000, ITEMS)
    world.tamper(log={**world.last["log"], **changes})
    assert text in the_one(world.audit(), "mismatching", "positions")


def test_only_entities_of_a_lost_bucket_are_rebuilding(world: World) -> None:
    traffic, user = bucket_of(world, "traffic"), bucket_of(world, "user", "u")
    lost = next(b for b in range(BUCKETS) if b not in (traffic, user))
    store = world.buckets.stores[lost]
    store.client.delete(*store.all_keys())
    end = {topic: len(records) for topic, records in world.records.items()}

    def check(as_of: int) -> None:
        matrix = read(world, as_of)
        for row, item in enumerate(ITEMS):
            state = matrix.state("item_clicks_1h")[row]
            is_lost = bucket_of(world, "item", item) == lost
            assert (state == State.REBUILDING) == is_lost, item
        names = [n for n in matrix.names if n.startswith("user_")]
        assert all((matrix.state(name) != State.REBUILDING).all() for name in names)
        world.read(as_of, ITEMS)

    check(START_MS + 2_000)
    world.begin(lost, rebuild_until=max(end.values()))
    for topic in world.records:
        world.apply(topic, end[topic] // 2, buckets=[lost])
        check(START_MS + 2_000)
    findings = world.audit()
    assert findings.clean, findings.table()


def test_a_wrongly_fresh_value_of_a_lost_bucket_is_found(world: World) -> None:
    lost = bucket_of(world, "item", "i1")
    store = world.buckets.stores[lost]
    store.client.delete(*store.all_keys())
    world.begin(lost, rebuild_until=9_999)
    world.read(START_MS + 2_000, ["i1"])
    assert world.audit().clean
    fresh = np.zeros(len(world.features.columns), np.uint8)
    world.tamper(states=fresh.tobytes())
    assert "expected stale, found fresh" in the_one(world.audit(), "mismatching", "states")


def test_an_entity_in_the_wrong_bucket_is_found(world: World) -> None:
    assert world.audit_state().clean
    wrong, right = (world.buckets.stores[(bucket_of(world, "item", "i1") + d) % 3] for d in (1, 0))
    view = next(v for v in world.features.layout.views if v.entity.name == "item")
    key = entity_key(view, ["i1"])
    world.redis.copy(right.prefix + key, wrong.prefix + key)
    assert "item i1" in str(world.audit_state().shown)


def read(world: World, as_of: int) -> Any:
    return world.reader.read(Request("r", "u", "q", as_of), ITEMS, timeout_ms=5_000)


# Readers and writers that were told different numbers.


@pytest.mark.parametrize(("writers", "readers"), [(1, 3), (3, 1), (3, 2)])
def test_a_reader_of_another_number_of_buckets_is_told(
    redis_url: str, writers: int, readers: int
) -> None:
    world = World(redis_url, video.small, buckets=writers)
    wrong = FeatureClient(redis_url, Reader(world.features, 1, buckets=readers))
    with pytest.raises(BucketCountError, match=f"kept in {writers} bucket.*looks for {readers}"):
        wrong.read(Request("r", "u", "q", START_MS), ["a"], timeout_ms=5_000)


async def test_an_asynchronous_reader_is_told_too(redis_url: str) -> None:
    world = World(redis_url, video.small, buckets=3)
    request = Request("r", "u", "q", START_MS)
    right = AsyncFeatureClient(redis_url, Reader(world.features, 1, buckets=3))
    assert (await right.read(request, ["a"], timeout_ms=5_000)).stamp.buckets == 3
    wrong = AsyncFeatureClient(redis_url, Reader(world.features, 1, buckets=2))
    with pytest.raises(BucketCountError, match="kept in 3 buckets"):
        await wrong.read(request, ["a"], timeout_ms=5_000)
    await right.aclose()
    await wrong.aclose()


def test_an_emptied_store_is_rebuilding_and_no_error(redis_url: str) -> None:
    world = World(redis_url, video.small, buckets=3)
    world.redis.flushall()
    assert read(world, START_MS).rebuilding
