"""The feature worker and a Redis or a log that fails it: nothing lost, nothing twice, and told."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from cut_proxy import CutProxy
from dying_scripts import Dying
from prometheus_client import CollectorRegistry
from test_feature_worker import LIFE, START_MS, TOPIC, Logged, read_all, state, worker

from tenuto.features.layout import Layout
from tenuto.features.progress import UNKNOWN_ARRIVAL
from tenuto.features.rules import TimeRules
from tenuto.features.schema import FeatureSet
from tenuto.features.store import Store, StoreError
from tenuto.presets import video
from tenuto.streams.batches import TP, Batch
from tenuto.streams.broker_log import Extent
from tenuto.streams.feature_metrics import FeatureMetrics
from tenuto.streams.full_store import FullStore, StoreFullError
from tenuto.streams.rebuild_metrics import RebuildMetrics

P0 = TP(TOPIC, 0)
# As Redis dumps and loads: at one moment, whatever is being written.
DUMP = """
local all = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
  all[#all + 1] = key
  all[#all + 1] = redis.call('GET', key)
end
return all
"""
RESTORE = """
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do redis.call('DEL', key) end
for i = 2, #ARGV, 2 do redis.call('SET', ARGV[i], ARGV[i + 1]) end
"""


class Expiring(Logged):
    """A log whose front is deleted: reading from before it says how much was missed."""

    def __init__(self, records: int, seed: int) -> None:
        super().__init__(records, seed)
        self.begin = 0
        self.life = LIFE

    def expire(self, begin: int) -> None:
        self.begin = begin

    def batch(self, start: int, end: int) -> Batch:
        if start >= self.begin:
            return super().batch(start, end)
        whole = super().batch(self.begin, max(end, self.begin))
        return replace(whole, start=start, missed=self.begin - start)

    async def extents(self, partitions: Any) -> dict[TP, Extent]:
        return {tp: Extent(self.begin, len(self), None) for tp in partitions}

    async def incarnation(self, topic: str) -> bytes:
        return self.life


@pytest.fixture(scope="module")
def layout() -> Layout:
    return FeatureSet.of(video.small, TimeRules()).layout


@pytest.fixture
def make_store(redis_url: str, layout: Layout) -> Callable[[str], Store]:
    return lambda name: Store(redis.Redis.from_url(redis_url), layout, 1, name)


def whole_state(store: Store, log: Logged, start: int = 0) -> dict[bytes, Any]:
    """What the records from ``start`` on add up to, applied at one go to an empty store."""
    store.begin(store.slot(TOPIC, 0), LIFE, start)

    async def at_once() -> None:
        made = worker(store, log)
        await made.start_positions({P0})
        await made.take(log.batch(start, len(log)))
        await made.flush()

    asyncio.run(at_once())
    return state(store)


# The log begins later than progress stands.


def test_what_retention_deletes_under_a_running_worker_is_a_declared_gap(
    make_store: Callable[[str], Store],
) -> None:
    store, log = make_store("gap"), Expiring(3_000, 1)

    async def passed() -> None:
        made = worker(store, log)
        await made.start_positions({P0})
        await made.take(log.batch(0, 500))
        await made.flush()
        log.expire(1_200)
        await made.take(log.batch(500, 2_000))
        await made.flush()
        assert made._metrics.missed.labels(TOPIC)._value.get() == 700

    asyncio.run(passed())
    entry = store.entry(store.slot(TOPIC, 0))
    assert entry is not None
    assert (entry.origin, entry.next) == (1_200, 2_000)
    assert entry.origin_arrival == START_MS + 40 * 1_200


def test_a_gap_that_a_start_meets_is_declared_when_its_first_record_is_read(
    make_store: Callable[[str], Store],
) -> None:
    """Nothing is left at first: what comes says until when something may be missing."""
    store, log = make_store("empty"), Expiring(500, 1)

    async def passed() -> None:
        made = worker(store, log)
        await read_all(made, log)
        log.expire(900)
        log.values += [None] * 400
        again = worker(store, log)
        assert await again.start_positions({P0}) == {P0: 500}
        await again.take(log.batch(500, 900))
        await again.flush()
        (entry,) = again.progress.entries[P0]
        assert (entry.origin, entry.origin_arrival, entry.next) == (900, UNKNOWN_ARRIVAL, 900)
        log.values += Logged(50, 2).values
        await again.take(log.batch(900, 950))
        await again.flush()
        assert again.progress.entries[P0][0].origin_arrival == START_MS + 40 * 900

    asyncio.run(passed())


def test_an_empty_store_of_an_emptied_log_does_not_look_complete(
    make_store: Callable[[str], Store],
) -> None:
    store, log = make_store("emptied"), Expiring(100, 1)
    log.expire(100)
    made = worker(store, log)
    asyncio.run(made.start_positions({P0}))
    entry = store.entry(store.slot(TOPIC, 0))
    assert entry is not None
    assert (entry.origin, entry.origin_arrival) == (100, UNKNOWN_ARRIVAL)


@pytest.mark.parametrize("begin", [700, 2_500, 2_600])
def test_a_batch_in_progress_that_a_gap_cuts_adds_nothing_twice(
    make_store: Callable[[str], Store], begin: int
) -> None:
    """What was applied of it counts its records beyond the gap already."""
    store, log = make_store("cut"), Expiring(3_000, 1)
    died = worker(store, log)

    async def begin_batch() -> None:
        await died.start_positions({P0})
        await died.take(log.batch(0, 2_500))
        with pytest.raises(redis.ConnectionError):
            await died.flush()

    with Dying([store], 3):
        asyncio.run(begin_batch())
    entry = store.entry(store.slot(TOPIC, 0))
    assert entry is not None
    assert entry.done == 3
    log.expire(begin)
    asyncio.run(read_all(worker(store, log), log))
    entry = store.entry(store.slot(TOPIC, 0))
    assert entry is not None
    assert (entry.origin, entry.next, entry.batch_end) == (begin, 3_000, 0)
    most = whole_state(make_store("all"), Logged(3_000, 1))
    least = whole_state(make_store("rest"), Logged(3_000, 1), start=begin)
    found = state(store)
    assert set(least) <= set(found) <= set(most)
    for key, value in found.items():
        # Each entity has all that came after the gap, and what came before it or nothing of it.
        assert value == most[key] or value == least.get(key) or begin > 2_500, key


# Redis is not what it was.


def test_a_store_of_another_life_is_refused_while_the_worker_runs(
    make_store: Callable[[str], Store],
) -> None:
    """Restored from a dump of before the topic was recreated."""
    store, log = make_store("life"), Expiring(500, 1)

    async def restored() -> None:
        made = worker(store, log)
        await read_all(made, log)
        slot = store.slot(TOPIC, 0)
        entry = store.entry(slot)
        assert entry is not None
        store.replace(slot, entry, replace(entry, incarnation=b"an older life 00", next=100))
        with pytest.raises(StoreError, match="another life of the topic"):
            await made.watch()

    asyncio.run(restored())


def test_a_topic_recreated_while_the_worker_runs_is_seen_at_the_next_assignment(
    make_store: Callable[[str], Store],
) -> None:
    store, log = make_store("recreated"), Expiring(500, 1)

    async def recreated() -> None:
        made = worker(store, log)
        await read_all(made, log)
        log.life = b"another life 000"
        with pytest.raises(StoreError, match="another life of the topic"):
            await made.start_positions({P0})

    asyncio.run(recreated())


def test_progress_that_another_worker_moves_meanwhile_is_no_truncated_log(
    make_store: Callable[[str], Store],
) -> None:
    """The log grows, and is read by a worker that does not know yet that it lost the partition."""
    store, log = make_store("moved"), Expiring(500, 1)
    asked = 0

    async def grown(partitions: Any) -> dict[TP, Extent]:
        nonlocal asked
        asked += 1
        return {tp: Extent(0, 400 if asked == 1 else 500, None) for tp in partitions}

    async def taken_over() -> None:
        await read_all(worker(store, log), log)
        log.extents = grown  # type: ignore[method-assign]
        assert await worker(store, log).start_positions({P0}) == {P0: 500}

    asyncio.run(taken_over())
    assert asked == 2


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_redis_flushed_or_older_at_any_moment_is_made_whole(
    make_store: Callable[[str], Store], seed: int
) -> None:
    store, log, rnd = make_store(f"any{seed}"), Logged(6_000, 1), random.Random(seed)
    log.sizes.choice = lambda _: 90  # type: ignore[method-assign,assignment,return-value]
    dumps: list[Any] = []

    async def disturb(taken: int) -> None:
        draw = rnd.random()
        await asyncio.sleep(rnd.random() * 0.004)
        if draw < 0.1:
            dumps.append(store.client.eval(DUMP, 0, store.prefix))
        elif draw < 0.2 and taken < 60:
            older = rnd.choice(dumps) if dumps and draw < 0.15 else []
            store.client.eval(RESTORE, 0, store.prefix, *older)

    asyncio.run(read_all(worker(store, log), log, disturb))
    assert log.generation > 0
    assert state(store) == whole_state(make_store("whole"), Logged(6_000, 1))


def test_a_reply_that_is_lost_after_the_script_ran_neither_doubles_nor_loses(
    redis_url: str, layout: Layout, make_store: Callable[[str], Store]
) -> None:
    rnd = random.Random(1)
    proxy = CutProxy(
        urlsplit(redis_url).port or 0, lambda asked: b"EVALSHA" in asked and rnd.random() < 0.1
    )
    try:
        client = redis.Redis(port=proxy.port, socket_timeout=2.0)
        client.connection_pool.connection_kwargs["retry"]._backoff = _NoWait()
        store, log = Store(client, layout, 1, "reply"), Logged(3_000, 1)
        asyncio.run(read_all(worker(store, log), log))
        assert proxy.cuts > 3
    finally:
        proxy.close()
    assert state(make_store("reply")) == whole_state(make_store("plain"), Logged(3_000, 1))


class _NoWait:
    def compute(self, failures: int) -> float:
        return 0.0

    def reset(self) -> None:
        pass


# Redis has no memory, or takes it from others.


@pytest.fixture
def full(redis_url: str) -> Iterator[Callable[[bool], None]]:
    client = redis.Redis.from_url(redis_url)

    def set_full(yes: bool) -> None:
        used = int(client.info("memory")["used_memory"])
        client.config_set("maxmemory", max(1, used // 2) if yes else 0)

    yield set_full
    set_full(False)


def test_a_full_redis_stops_nothing_but_writes_and_all_goes_on_when_it_has_memory(
    make_store: Callable[[str], Store],
    full: Callable[[bool], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, log = make_store("full"), Logged(6_000, 1)
    seen: list[float] = []

    async def disturb(taken: int) -> None:
        if taken in (2, 7, 8):
            full(True)
            before = store.next_offsets()
            task = asyncio.create_task(again_in_a_while())
            await asyncio.sleep(0.05)
            seen.append(made._metrics.store_full._value.get())
            # Reading goes on.
            assert store.entry(store.slot(TOPIC, 0)) is not None
            assert (store.next_offsets() >= before).all()
            await task

    async def again_in_a_while() -> None:
        await asyncio.sleep(0.15)
        full(False)

    made = worker(store, log)
    log.sizes.choice = lambda _: 700  # type: ignore[method-assign,assignment,return-value]
    with caplog.at_level(logging.WARNING):
        asyncio.run(read_all(made, log, disturb))
    assert 1.0 in seen
    assert made._metrics.store_full._value.get() == 0.0
    assert sum("redis is full" in line for line in caplog.messages) == sum(
        "redis has memory again" in line for line in caplog.messages
    )
    assert log.generation == 0, "nothing was read again"
    assert state(store) == whole_state(make_store("plain"), Logged(6_000, 1))


def test_a_redis_that_is_full_in_the_middle_of_a_batch_has_whole_chunks_or_none(
    make_store: Callable[[str], Store], full: Callable[[bool], None]
) -> None:
    """A chunk that is refused has written nothing: memory is asked for before its first write."""
    store, log = make_store("middle"), Logged(3_000, 1)
    run = store._apply.run
    states: list[dict[bytes, Any]] = []

    def filling(calls: list[Any], *rest: Any) -> None:
        if states:
            return run(calls, *rest)
        made = calls[:2]
        del calls[:2]
        run(made, *rest)
        full(True)
        states.append(state(store))
        try:
            run(calls, *rest)
        except redis.ResponseError:
            states.append(state(store))
            full(False)
            raise

    async def filled() -> None:
        made = worker(store, log)
        await made.start_positions({P0})
        await made.take(log.batch(0, 3_000))
        await made.flush()

    store._apply.run = filling  # type: ignore[method-assign]
    asyncio.run(filled())
    assert len(states) == 2
    assert states[0] == states[1]
    assert state(store) == whole_state(make_store("plain"), Logged(3_000, 1))


def test_a_worker_leaves_a_batch_that_a_full_redis_does_not_take(
    make_store: Callable[[str], Store], full: Callable[[bool], None]
) -> None:
    """A handover must not wait for memory; whoever comes next goes on in the middle."""
    store, log = make_store("leave"), Logged(3_000, 1)

    async def leave() -> None:
        made = worker(store, log)
        await made.start_positions({P0})
        full(True)
        await made.take(log.batch(0, 3_000))
        await asyncio.wait_for(made.on_revoked({P0}), 5)
        full(False)

    asyncio.run(leave())
    asyncio.run(read_all(worker(store, log), log))
    assert state(store) == whole_state(make_store("plain"), Logged(3_000, 1))


def test_waiting_for_memory_has_an_end() -> None:
    waiting = FullStore(FeatureMetrics(CollectorRegistry()).store_full, every_s=0.0, limit_s=0.0)

    def refused() -> None:
        raise redis.ResponseError("OOM command not allowed when used memory > 'maxmemory'.")

    with pytest.raises(StoreFullError, match="redis is full for 0 s"):
        asyncio.run(waiting.through(refused))


def test_another_error_of_redis_is_not_waited_for() -> None:
    waiting = FullStore(FeatureMetrics(CollectorRegistry()).store_full)

    def refused() -> None:
        raise redis.ResponseError("WRONGTYPE")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        asyncio.run(waiting.through(refused))


def test_a_redis_that_evicts_later_ends_the_worker(
    redis_url: str, make_store: Callable[[str], Store], full: Callable[[bool], None]
) -> None:
    store, log, client = make_store("evicts"), Logged(3_000, 1), redis.Redis.from_url(redis_url)
    client.config_resetstat()

    async def evict() -> None:
        made = worker(store, log)
        await read_all(made, log)
        await made.guard()
        client.config_set("maxmemory-policy", "allkeys-random")
        with pytest.raises(StoreError, match="allkeys-random: must be noeviction"):
            await made.guard()
        full(True)
        client.set("one more", "makes room")
        client.config_set("maxmemory-policy", "noeviction")
        full(False)
        with pytest.raises(StoreError, match=r"evicted_keys is \d+"):
            await made.guard()
        # What the message says to do does mend it.
        client.flushdb()
        client.config_resetstat()
        await made.guard()

    try:
        asyncio.run(evict())
    finally:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_resetstat()


def test_a_user_that_may_not_ask_for_it_is_told_that_nothing_was_checked(
    redis_url: str, layout: Layout
) -> None:
    client = redis.Redis.from_url(redis_url)
    client.acl_setuser(
        "managed", enabled=True, passwords=["+secret"], keys=["*"],
        categories=["+@all"], commands=["-info", "-config"],
    )  # fmt: skip
    try:
        port = urlsplit(redis_url).port or 0
        managed = redis.Redis(port=port, username="managed", password="secret")
        assert Store(managed, layout, 1, "managed").check().policy == ""
    finally:
        client.acl_deluser("managed")


# Seen in metrics.


def test_how_far_a_rebuild_has_come_is_shown(make_store: Callable[[str], Store]) -> None:
    registry, now_s = CollectorRegistry(), 100.0
    store, log = make_store("shown"), Expiring(500, 1)
    shown = RebuildMetrics(registry, clock=lambda: now_s)
    made = worker(store, log)
    asyncio.run(made.start_positions({P0}))
    shown.show(made.progress.entries)
    assert registry.get_sample_value("tenuto_rebuilding_partitions") == 1
    assert registry.get_sample_value("tenuto_rebuild_left_records") == 500
    now_s = 103.0
    asyncio.run(read_all(made, log))
    shown.show(made.progress.entries)
    now_s = 110.0
    shown.show(made.progress.entries)
    assert registry.get_sample_value("tenuto_rebuilding_partitions") == 0
    assert registry.get_sample_value("tenuto_rebuild_left_records") == 0
    assert registry.get_sample_value("tenuto_rebuild_seconds_total") == 3.0
