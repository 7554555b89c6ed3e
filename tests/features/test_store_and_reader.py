"""What is read back from Redis, bit for bit against a count with lists and loops."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import redis

from tenuto.features.aggregate import Aggregator, Deltas, entity_key
from tenuto.features.client import FeatureClient
from tenuto.features.feature import Feature
from tenuto.features.matrix import State
from tenuto.features.progress import Entry
from tenuto.features.reader import Reader, Request
from tenuto.features.rules import TimeRules
from tenuto.features.schema import FeatureSet
from tenuto.features.store import Elsewhere, Store, StoreError
from tenuto.features.sums import AsOfTooOldError
from tenuto.presets import video
from tenuto.snapshot.audit.formulas import float32_bits, value
from tenuto.snapshot.audit.judging import JudgedEvent
from tenuto.snapshot.audit.moment import ItemMoment, Read
from tenuto.snapshot.audit.prefix import Prefixes, Reached
from tenuto.snapshot.audit.stored import stored_entities

LIFE = b"incarnation-0001"
START_MS = 1_700_000_000_000
FLAGS = ("first", "finished", "converted")
IDS = ("request_id", "user_id", "query", "item_id")


def event(rnd: random.Random, name: str, ts: int) -> dict[str, Any]:
    record: dict[str, Any] = {
        "event": name,
        "request_id": "r",
        "user_id": f"u{rnd.randrange(3)}",
        "query": f"q{rnd.randrange(2)}",
        "item_id": f"i{rnd.randrange(4)}",
        "position": rnd.choice([-1, 0, 1, 2, 3, 5, 9, 20]),
        "ts": ts,
    }
    if name == "plays":
        record |= {f: rnd.randrange(1000) for f in ("play_ms", "play_ms_delta", "duration_ms")}
        record |= {f: rnd.random() < 0.5 for f in FLAGS} | {"started_ts": ts}
    return record


def columns(records: list[dict[str, Any]]) -> dict[str, Any]:
    if not records:
        return {"ts": np.zeros(0, np.int64)}
    return {
        name: [r[name] for r in records]
        if name in IDS
        else np.array([r[name] for r in records], bool if name in FLAGS else np.int64)
        for name in records[0]
        if name != "event"
    }


class World:
    """A store, its reader and the audit's count, fed with the same events."""

    def __init__(self, url: str, features: list[Feature], partitions: int = 1) -> None:
        self.set = FeatureSet.of(features, TimeRules())
        layout = self.set.layout
        self.store = Store(redis.Redis.from_url(url), layout, partitions)
        self.aggregator = Aggregator(layout)
        self.client = FeatureClient(url, Reader(self.set, partitions))
        self.events: dict[str, list[list[JudgedEvent]]] = {
            topic: [[] for _ in range(partitions)] for topic in layout.topics
        }
        self.entries: dict[tuple[str, int], Entry] = {}
        for topic in layout.topics:
            for partition in range(partitions):
                slot = self.store.slot(topic, partition)
                self.entries[topic, partition] = self.store.begin(slot, LIFE, 0)

    def add(self, topic: str, records: list[Any], arrival: int, partition: int = 0) -> None:
        entry = self.entries[topic, partition]
        deltas = self.aggregator.deltas(topic, columns(records))
        slot = self.store.slot(topic, partition)
        end = entry.next + len(records)
        self.entries[topic, partition] = self.store.apply(slot, entry, end, arrival, deltas)
        self.events[topic][partition] += [
            JudgedEvent(topic, partition, entry.next + at, arrival, record)
            for at, record in enumerate(records)
        ]

    def wrong(
        self, request: Request, items: list[str], published: list[Any], as_of: int
    ) -> list[Any]:
        context = {video.PUBLISHED: published}
        matrix = self.client.read(request, items, context, timeout_ms=5_000, as_of_ms=as_of)
        prefixes = Prefixes(stored_entities(self.set.features, TimeRules()), self.events)
        positions = {at: Reached(entry.origin, entry.next) for at, entry in self.entries.items()}
        fields = {
            "user_id": request.user_id, "query": request.query, "request_ts": request.ts_ms,
            "as_of": as_of, "items": items, "context": context,
        }  # fmt: skip
        read = Read(prefixes, positions, fields)
        found = []
        for row, item in enumerate(items):
            moment = ItemMoment(read, row)
            for at, feature in enumerate(self.set.features):
                expected = value(feature, moment)
                if int(matrix.values[row, at].view(np.uint32)) != float32_bits(expected):
                    found.append((feature.name, item, matrix.values[row, at], expected))
        return found


@pytest.mark.parametrize("preset", ["small", "full"])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_value_equals_a_naive_count_bit_for_bit(
    redis_url: str, preset: str, seed: int
) -> None:
    rnd = random.Random(seed)
    world = World(redis_url, getattr(video, preset))
    now = START_MS
    for _ in range(25):
        now += rnd.choice([1_000, 10_000, 60_000, 3_600_000, 40_000_000])
        for topic in world.set.layout.topics:
            records = [
                event(rnd, topic, now - rnd.randrange(200_000)) for _ in range(rnd.randrange(12))
            ]
            world.add(topic, records, now)
        as_of = now + rnd.randrange(5_000)
        request = Request("x", f"u{rnd.randrange(3)}", f"q{rnd.randrange(2)}", as_of)
        published = [None, now - 5_000, None, None, None]
        items = ["i0", "i1", "i2", "i3", "never seen"]
        assert world.wrong(request, items, published, as_of) == []


def test_the_state_does_not_depend_on_how_the_log_is_cut_or_interleaved(redis_url: str) -> None:
    rnd = random.Random(3)
    records = [event(rnd, "clicks", START_MS + rnd.randrange(10**8)) for _ in range(300)]
    client = redis.Redis.from_url(redis_url)
    layout = FeatureSet.of(video.full, TimeRules()).layout
    aggregator = Aggregator(layout)
    states = []
    for seed in range(4):
        store = Store(client, layout, 2, f"cut{seed}")
        shuffle = random.Random(seed)
        shuffled = records[:]
        shuffle.shuffle(shuffled)
        entries = {p: store.begin(store.slot("clicks", p), LIFE, 0) for p in range(2)}
        while shuffled:
            size, partition = shuffle.randrange(1, 60), shuffle.randrange(2)
            part, shuffled = shuffled[:size], shuffled[size:]
            deltas = aggregator.deltas("clicks", columns(part))
            slot, entry = store.slot("clicks", partition), entries[partition]
            entries[partition] = store.apply(slot, entry, entry.next + len(part), 1, deltas)
        found = {
            key.removeprefix(store.prefix): client.get(key)
            for key in store.all_keys()
            if key != store.progress_key
        }
        states.append(found)
    assert states[0]
    assert all(state == states[0] for state in states)


def deltas_of(world: World, n: int = 400) -> Deltas:
    rnd = random.Random(5)
    records = [event(rnd, "clicks", START_MS) for _ in range(n)]
    for at, record in enumerate(records):
        record["item_id"] = f"i{at}"
    return world.aggregator.deltas("clicks", columns(records))


def test_a_batch_applied_twice_counts_once(redis_url: str) -> None:
    world = World(redis_url, video.small)
    slot, entry = world.store.slot("clicks", 0), world.entries["clicks", 0]
    deltas = deltas_of(world)
    world.store.apply(slot, entry, 400, START_MS, deltas)
    before = {key: world.store.client.get(key) for key in world.store.all_keys()}
    with pytest.raises(Elsewhere) as elsewhere:
        world.store.apply(slot, entry, 400, START_MS, deltas)
    assert elsewhere.value.entry is not None
    assert elsewhere.value.entry.next == 400
    assert {key: world.store.client.get(key) for key in world.store.all_keys()} == before


@pytest.mark.parametrize("fail_at", range(6))
def test_a_batch_interrupted_after_any_chunk_goes_on_where_it_stopped(
    redis_url: str, fail_at: int
) -> None:
    client = redis.Redis.from_url(redis_url)
    layout = FeatureSet.of(video.small, TimeRules()).layout
    whole, broken = Store(client, layout, 1, "whole"), Store(client, layout, 1, "broken")
    world = World(redis_url, video.small)
    deltas = deltas_of(world)
    for store in (whole, broken):
        store.begin(store.slot("clicks", 0), LIFE, 0)
    slot = whole.slot("clicks", 0)
    whole_entry = whole.entry(slot)
    assert whole_entry is not None
    whole.apply(slot, whole_entry, 400, START_MS, deltas)

    run = broken._apply.run

    def failing(calls: list[Any], *rest: Any) -> None:
        run(calls[:fail_at], *rest)
        raise redis.ConnectionError("killed here")

    broken._apply.run = failing  # type: ignore[method-assign]
    entry = broken.entry(slot)
    assert entry is not None
    with pytest.raises(redis.ConnectionError):
        broken.apply(slot, entry, 400, START_MS, deltas)
    broken._apply.run = run  # type: ignore[method-assign]
    resumed = broken.entry(slot)
    assert resumed is not None
    assert resumed.done == fail_at
    broken.apply(slot, resumed, 400, START_MS, deltas)

    def state(store: Store) -> dict[bytes, bytes | None]:
        return {key.removeprefix(store.prefix): client.get(key) for key in store.all_keys()}

    assert state(broken) == state(whole)


def test_a_chunk_writes_nothing_when_a_key_has_a_wrong_type(redis_url: str) -> None:
    world = World(redis_url, video.small)
    client = world.store.client
    view = world.set.layout.view(video.item)
    wrong = world.store.prefix + entity_key(view, ["i7"])
    client.rpush(wrong, "not a string")
    before = set(client.keys())
    pair = (entity_key(view, ["i7"]), entity_key(view, ["i8"]))
    deltas = deltas_of(world)
    chosen = [d for d in zip(deltas.keys, deltas.packed, strict=True) if d[0] in pair]
    assert len(chosen) == 2
    with pytest.raises(redis.ResponseError):
        world.store.apply(
            world.store.slot("clicks", 0),
            world.entries["clicks", 0],
            1,
            START_MS,
            Deltas([key for key, _ in chosen], [packed for _, packed in chosen]),
        )
    assert set(client.keys()) == before


def test_values_say_when_they_are_stale_missing_or_being_rebuilt(redis_url: str) -> None:
    world = World(redis_url, video.small)
    rnd = random.Random(7)
    request = Request("x", "u1", "q1", START_MS)
    for topic in world.set.layout.topics:
        record = event(rnd, topic, START_MS)
        record["item_id"] = "i1"
        world.add(topic, [record], START_MS)
    states = world.client.read(request, ["i1", "i9"], as_of_ms=START_MS).state("item_clicks_1h")
    assert states.tolist() == [State.FRESH, State.MISSING]
    later = world.client.read(request, ["i1"], as_of_ms=START_MS + 120_000)
    assert later.state("item_clicks_1h").tolist() == [State.STALE]
    assert later.state("hour").tolist() == [State.FRESH]
    world.store.client.delete(world.store.progress_key)
    lost = world.client.read(request, ["i1"], as_of_ms=START_MS)
    assert lost.state("item_clicks_1h").tolist() == [State.REBUILDING]


def test_a_read_further_back_than_the_rings_reach_is_refused(redis_url: str) -> None:
    world = World(redis_url, video.small)
    world.add("clicks", [event(random.Random(1), "clicks", START_MS)], START_MS)
    with pytest.raises(AsOfTooOldError):
        world.client.read(
            Request("x", "u0", "q0", START_MS), [f"i{i}" for i in range(4)],
            as_of_ms=START_MS - 300_000,
        )  # fmt: skip


def test_a_redis_that_may_evict_is_refused(redis_url: str) -> None:
    world = World(redis_url, video.small)
    world.store.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreError, match="noeviction"):
            world.store.check()
    finally:
        world.store.client.config_set("maxmemory-policy", "noeviction")


def test_sweeping_deletes_only_what_no_reader_can_see(redis_url: str) -> None:
    world = World(redis_url, video.small)
    rnd = random.Random(2)
    old, young = event(rnd, "clicks", START_MS), event(rnd, "clicks", START_MS + 8 * 86_400_000)
    old["item_id"], young["item_id"] = "old", "young"
    for record in (old, young):
        record["user_id"] = record["query"] = record["item_id"]
    world.add("clicks", [old], START_MS)
    world.add("clicks", [young], young["ts"])
    deleted, cursor = 0, 0
    while True:
        swept = world.store.sweep(young["ts"], cursor)
        deleted, cursor = deleted + swept.deleted, swept.cursor
        if not cursor:
            break
    assert deleted == 4
    keys = b" ".join(world.store.all_keys())
    assert b"old" not in keys
    assert b"young" in keys
