"""The feature worker over several buckets: each exact, whatever happens to one of them alone."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import redis
from dying_scripts import Dying
from test_feature_recovery import DUMP, P0, RESTORE, Expiring
from test_feature_worker import TOPIC, Logged, read_all, worker

from tenuto.features.aggregate import Deltas
from tenuto.features.bucket_keys import buckets_of, cluster_slot, key_prefix
from tenuto.features.buckets import Buckets, Part, next_part, split_by_bucket
from tenuto.features.connection import RedisConnection
from tenuto.features.layout import Layout
from tenuto.features.progress import Entry
from tenuto.features.rules import TimeRules
from tenuto.features.schema import FeatureSet
from tenuto.features.store import StoreError
from tenuto.presets import video

Make = Callable[..., Buckets]


@pytest.fixture(scope="module")
def layout() -> Layout:
    return FeatureSet.of(video.small, TimeRules()).layout


@pytest.fixture
def make(redis_url: str, layout: Layout) -> Make:
    return lambda name, buckets=3: Buckets.connect(
        RedisConnection(url=redis_url, buckets=buckets), layout, 1, name
    )


def state(buckets: Buckets) -> dict[bytes, Any]:
    """Every entity's value, whatever its bucket."""
    found: dict[bytes, Any] = {}
    for store in buckets.stores:
        keys = [key for key in store.all_keys() if key != store.progress_key]
        mine = {key.removeprefix(store.prefix): store.client.get(key) for key in keys}
        assert not found.keys() & mine.keys()
        found |= mine
    return found


def forget(buckets: Buckets, bucket: int) -> None:
    """As a node that has come back empty."""
    store = buckets.stores[bucket]
    store.client.delete(*store.all_keys(), store.prefix + b"lives")


def stand(buckets: Buckets) -> list[Entry]:
    (entries,) = buckets.entries([buckets.slot(TOPIC, 0)])
    return [entry for entry in entries if entry is not None]


@pytest.fixture
def plain(make: Make) -> dict[bytes, Any]:
    """The state of the whole log in one bucket."""
    one, log = make("plain", 1), Logged(6_000, 1)
    asyncio.run(read_all(worker(one, log), log))
    return state(one)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_several_buckets_together_are_the_state_of_one(
    make: Make, plain: dict[bytes, Any], count: int
) -> None:
    buckets, log = make("several", count), Logged(6_000, 1)
    made = worker(buckets, log)
    asyncio.run(read_all(made, log))
    assert state(buckets) == plain
    assert [entry.next for entry in stand(buckets)] == [6_000] * count
    accepted = 6_000 - len(log.letters)
    assert made._metrics.events.labels(TOPIC)._value.get() == accepted, "an event counts once"


@pytest.mark.parametrize("last", range(1, 9))
def test_a_worker_killed_between_two_buckets_is_followed_by_one_that_loses_and_doubles_nothing(
    make: Make, plain: dict[bytes, Any], last: int
) -> None:
    buckets, log = make("killed"), Logged(6_000, 1)

    async def begin() -> None:
        died = worker(buckets, log)
        await died.start_positions({P0})
        await died.take(log.batch(0, 2_500))
        with pytest.raises(redis.ConnectionError):
            await died.flush()

    with Dying(buckets.stores, last):
        asyncio.run(begin())
    assert len({(entry.next, entry.done) for entry in stand(buckets)}) > 1
    asyncio.run(read_all(worker(buckets, log), log))
    assert state(buckets) == plain


def test_a_lost_bucket_is_rebuilt_alone(make: Make, plain: dict[bytes, Any]) -> None:
    buckets, log = make("lost"), Logged(6_000, 1)
    lives = [store.prefix + b"lives" for store in buckets.stores]
    applied = [0, 0, 0]

    async def lose() -> None:
        made = worker(buckets, log)
        await read_all(made, log)
        forget(buckets, 1)
        for at, store in enumerate(buckets.stores):
            run = _counting(store._apply.run, applied, at)
            store._apply.run = run  # type: ignore[method-assign]
        await made.watch()
        assert [entry.next for entry in made.progress.entries[P0]] == [6_000, 0, 6_000]
        assert [entry.rebuild_until for entry in made.progress.entries[P0]][1] == 6_000
        log.position = 0
        while (batch := log.fetch()) is not None:
            await made.take(batch)
        await made.flush()

    asyncio.run(lose())
    assert state(buckets) == plain
    assert applied[1] > 10
    assert applied[0] == applied[2] == 0
    assert [buckets.stores[0].client.get(key) for key in lives] == [b"1"] * 3


def _counting(run: Any, counts: list[int], at: int) -> Any:
    def counting(calls: list[Any], *rest: Any) -> None:
        counts[at] += len(calls)
        run(calls, *rest)

    return counting


@pytest.mark.parametrize("seed", range(4))
def test_buckets_lost_or_older_at_any_moment_are_made_whole(
    make: Make, plain: dict[bytes, Any], seed: int
) -> None:
    buckets, log, rnd = make(f"any{seed}"), Logged(6_000, 1), random.Random(seed)
    log.sizes.choice = lambda _: 90  # type: ignore[method-assign,assignment,return-value]
    dumps: dict[int, list[Any]] = {0: [], 1: [], 2: []}

    async def disturb(taken: int) -> None:
        draw, at = rnd.random(), rnd.randrange(3)
        await asyncio.sleep(rnd.random() * 0.004)
        store = buckets.stores[at]
        if draw < 0.2:
            dumps[at].append(store.client.eval(DUMP, 0, store.prefix))
        elif draw < 0.35 and taken < 60:
            older = rnd.choice(dumps[at]) if dumps[at] and draw < 0.3 else []
            store.client.eval(RESTORE, 0, store.prefix, *older)

    asyncio.run(read_all(worker(buckets, log), log, disturb))
    assert log.generation > 0
    assert state(buckets) == plain


def test_two_workers_over_the_same_buckets_count_every_record_once(
    make: Make, plain: dict[bytes, Any]
) -> None:
    buckets, logs = make("two"), [Logged(6_000, 1), Logged(6_000, 1)]
    logs[1].sizes = random.Random(2)

    async def both() -> None:
        await asyncio.gather(*(read_all(worker(buckets, log), log) for log in logs))

    asyncio.run(both())
    assert state(buckets) == plain


def test_a_gap_in_the_log_is_declared_in_the_buckets_that_had_not_read_it(make: Make) -> None:
    buckets, log = make("gap"), Expiring(3_000, 1)

    async def passed() -> None:
        made = worker(buckets, log)
        await made.start_positions({P0})
        await made.take(log.batch(0, 2_000))
        await made.flush()
        forget(buckets, 2)
        await made.watch()
        log.expire(1_200)
        await made.take(log.batch(0, 3_000))
        await made.flush()
        assert made._metrics.missed.labels(TOPIC)._value.get() == 1_200

    asyncio.run(passed())
    assert [entry.origin for entry in stand(buckets)] == [0, 0, 1_200]
    assert [entry.next for entry in stand(buckets)] == [3_000] * 3


def test_a_worker_resets_every_bucket_of_another_life(make: Make, plain: dict[bytes, Any]) -> None:
    buckets, log = make("reset"), Expiring(6_000, 1)
    asyncio.run(read_all(worker(buckets, log), log))
    log.life = b"another life 000"
    with pytest.raises(StoreError, match="another life of the topic"):
        asyncio.run(worker(buckets, log).start_positions({P0}))
    again = worker(buckets, log)
    again.progress._reset = True
    asyncio.run(read_all(again, log))
    assert {entry.incarnation for entry in stand(buckets)} == {log.life}
    assert state(buckets) == plain


def test_sweeping_goes_over_every_bucket(make: Make) -> None:
    buckets, log = make("sweep"), Logged(2_000, 1)
    made = worker(buckets, log)
    asyncio.run(read_all(made, log))
    before = len(state(buckets))
    later = stand(buckets)[0].arrival + 30 * 86_400_000
    deleted = sum(made._sweeper.turn(later, 1.0) for _ in range(50))
    assert deleted == before
    assert not state(buckets)


# Where the parts of a batch end.


def entry(at: int, end: int = 0, arrival: int = 0) -> Entry:
    return Entry(b"x" * 16, 0, 0, at, arrival, 0, end, 4 if end else 0, 1 if end else 0)


def test_a_batch_ends_where_the_next_bucket_stands() -> None:
    assert next_part([entry(5), entry(5)], 90) == Part(90, (0, 1))
    assert next_part([entry(5), entry(40), entry(5)], 90) == Part(40, (0, 2))
    assert next_part([entry(5), entry(90)], 90) == Part(90, (0,))


def test_a_batch_in_progress_keeps_its_end() -> None:
    assert next_part([entry(5, 60), entry(5)], 90) == Part(60, (0, 1))
    assert next_part([entry(5, 60), entry(5, 50), entry(5)], 90) == Part(50, (1, 2))
    assert next_part([entry(5, 120), entry(40)], 90) == Part(120, (0,))


def test_buckets_that_judge_by_another_arrival_go_alone() -> None:
    assert next_part([entry(5, arrival=1), entry(5, arrival=2)], 90) == Part(90, (0,))


# Which keys a bucket has.


def test_entities_fall_evenly_into_buckets_and_within_one_into_chunks() -> None:
    keys = [b"1:item%d" % number for number in range(60_000)]
    deltas = Deltas(keys, keys)
    for buckets in (2, 3, 8, 16):
        split = split_by_bucket(deltas, buckets)
        assert sorted(key for part in split for key in part.keys) == sorted(keys)
        assert max(map(len, split)) < 1.15 * len(keys) / buckets
        chunks = [0] * 8
        for key in split[1].keys:
            chunks[zlib.crc32(key) % 8] += 1
        assert max(chunks) < 1.25 * len(split[1]) / 8
        assert min(chunks) > 0.75 * len(split[1]) / 8


def test_the_bucket_of_an_entity_never_changes() -> None:
    """It is part of what is stored: another hash needs another prefix."""
    keys = [b"0:", b"1:item7", b"2:user1", "1:Ü".encode()]
    assert buckets_of(keys, 1_024).tolist() == [1015, 697, 927, 957]


def test_one_bucket_has_the_keys_that_it_always_had(layout: Layout) -> None:
    assert key_prefix(layout, "ns") == f"{{tenuto.ns.{layout.digest}}}:"
    assert key_prefix(layout) == f"{{tenuto.{layout.digest}}}:"


@pytest.mark.parametrize("buckets", [2, 3, 6, 64])
def test_buckets_are_spread_evenly_over_the_slots_of_a_cluster(
    layout: Layout, buckets: int
) -> None:
    prefixes = [key_prefix(layout, "ns", bucket, buckets) for bucket in range(buckets)]
    slots = [cluster_slot(prefix) for prefix in prefixes]
    assert [slot * buckets // 16_384 for slot in slots] == list(range(buckets))
    assert all(f".{bucket}of{buckets}." in prefix for bucket, prefix in enumerate(prefixes))
