"""The feature worker between a log and a real Redis: nothing is lost or doubled, whatever moves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import orjson
import pytest
import redis
from dying_scripts import Dying
from prometheus_client import CollectorRegistry

from tenuto.features.buckets import Buckets
from tenuto.features.layout import Layout
from tenuto.features.rules import TimeRules
from tenuto.features.schema import FeatureSet
from tenuto.features.store import Store
from tenuto.presets import video
from tenuto.streams.batches import TP, Batch
from tenuto.streams.broker_log import Extent
from tenuto.streams.codec import EventCodec
from tenuto.streams.door import Limits
from tenuto.streams.feature_metrics import FeatureMetrics
from tenuto.streams.feature_progress import FeatureProgress
from tenuto.streams.feature_worker import FeatureWorker
from tenuto.streams.full_store import FullStore
from tenuto.streams.refusals import Refusal

START_MS = 1_700_000_000_000
TOPIC = "clicks"
LIFE = b"incarnation-0001"


def record(rnd: random.Random, at: int) -> bytes:
    if rnd.random() < 0.01:
        return b"not json"
    ids = {"request_id": f"r{at}", "user_id": f"u{rnd.randrange(300)}", "query": "q"}
    item = {"item_id": f"i{rnd.randrange(300)}", "position": at % 9, "ts": START_MS + 40 * at}
    return orjson.dumps({**ids, **item})


class Logged:
    """One partition's records: read in batches from where it was sought, and asked for its ends."""

    def __init__(self, records: int, seed: int) -> None:
        rnd = random.Random(seed)
        self.values: list[bytes | None] = [record(rnd, at) for at in range(records)]
        self.sizes = rnd
        self.position = 0
        self.generation = 0
        self.letters: set[int] = set()

    def fetch(self) -> Batch | None:
        start, end = self.position, min(self.position + self.sizes.choice([1, 90, 700]), len(self))
        self.position = end
        return None if start == end else self.batch(start, end)

    def batch(self, start: int, end: int) -> Batch:
        offsets = np.arange(start, end)
        n = end - start
        stamps = START_MS + 40 * offsets
        return Batch(TOPIC, 0, start, end, self.generation, 0, len(self), offsets,
                     stamps, [None] * n, self.values[start:end], [()] * n)  # fmt: skip

    def __len__(self) -> int:
        return len(self.values)

    # As the worker's delivery.

    def is_current(self, batch: Batch) -> bool:
        return batch.generation == self.generation

    async def seek(self, tp: tuple[str, int], offset: int) -> None:
        await asyncio.sleep(0)
        self.position, self.generation = offset, self.generation + 1

    # As the broker's side.

    async def extents(self, partitions: Collection[TP]) -> dict[TP, Extent]:
        return {tp: Extent(0, len(self), None) for tp in partitions}

    async def incarnation(self, topic: str) -> bytes:
        return LIFE

    async def first_since(self, wanted: Any) -> dict[TP, tuple[int, int]]:
        return {}

    # As dead letters.

    async def write(self, refusals: Sequence[Refusal]) -> None:
        self.letters.update(refusal.offset for refusal in refusals)


def worker(store: Store | Buckets, log: Any) -> FeatureWorker:
    store = store if isinstance(store, Buckets) else Buckets([store])
    metrics = FeatureMetrics(CollectorRegistry())
    full = FullStore(metrics.store_full, every_s=0.01)
    progress = FeatureProgress(store, log, {TOPIC: TOPIC}, full)
    codecs = {TOPIC: EventCodec(video.clicks)}
    made = FeatureWorker(store, progress, codecs, Limits(1), log, metrics, full)
    made.delivery = log
    return made


def state(store: Store) -> dict[bytes, Any]:
    keys = [key for key in store.all_keys() if key != store.progress_key]
    return {key.removeprefix(store.prefix): store.client.get(key) for key in keys}


async def read_all(made: FeatureWorker, log: Logged, disturb: Any = None) -> None:
    tp = TP(TOPIC, 0)
    log.position = (await made.start_positions({tp}))[tp]
    taken = 0
    while True:
        while (batch := log.fetch()) is not None:
            await made.take(batch)
            taken += 1
            if disturb is not None:
                await disturb(taken)
        await made.flush()
        await made.watch()
        if log.position == len(log):
            return


@pytest.fixture
def layout() -> Layout:
    return FeatureSet.of(video.small, TimeRules()).layout


@pytest.fixture
def plain(redis_url: str, layout: Layout) -> dict[bytes, Any]:
    """The state after the log was applied at one go."""
    store = Store(redis.Redis.from_url(redis_url), layout, 1, "plain")
    log = Logged(6_000, 1)

    async def at_once() -> None:
        made = worker(store, log)
        await made.start_positions({TP(TOPIC, 0)})
        await made.take(log.batch(0, len(log)))
        await made.flush()

    asyncio.run(at_once())
    found = state(store)
    assert len(found) > 500
    return found


def test_batches_prepared_ahead_add_up_to_the_whole(
    redis_url: str, layout: Layout, plain: dict[bytes, Any]
) -> None:
    store, log = Store(redis.Redis.from_url(redis_url), layout, 1, "ahead"), Logged(6_000, 1)
    asyncio.run(read_all(worker(store, log), log))
    assert state(store) == plain
    assert log.letters == {at for at, value in enumerate(log.values) if value == b"not json"}


def test_a_store_lost_while_a_batch_is_in_flight_is_read_again(
    redis_url: str, layout: Layout, plain: dict[bytes, Any]
) -> None:
    store, log = Store(redis.Redis.from_url(redis_url), layout, 1, "lost"), Logged(6_000, 1)

    async def disturb(taken: int) -> None:
        if taken in (3, 9, 10):
            await asyncio.sleep(0.002)
            store.clear()

    asyncio.run(read_all(worker(store, log), log, disturb))
    assert log.generation > 0
    assert state(store) == plain


def test_two_workers_on_one_partition_count_every_record_once(
    redis_url: str, layout: Layout, plain: dict[bytes, Any]
) -> None:
    client = redis.Redis.from_url(redis_url)
    store = Store(client, layout, 1, "two")
    logs = [Logged(6_000, 1), Logged(6_000, 1)]
    logs[1].sizes = random.Random(2)

    async def both() -> None:
        await asyncio.gather(*(read_all(worker(store, log), log) for log in logs))

    asyncio.run(both())
    assert state(store) == plain


def test_a_batch_that_a_dead_worker_began_is_finished_by_the_next(
    redis_url: str, layout: Layout, plain: dict[bytes, Any]
) -> None:
    store, log = Store(redis.Redis.from_url(redis_url), layout, 1, "begun"), Logged(6_000, 1)
    died = worker(store, log)

    async def begin() -> None:
        await died.start_positions({TP(TOPIC, 0)})
        await died.take(log.batch(0, 2_500))
        with pytest.raises(redis.ConnectionError):
            await died.flush()

    with Dying([store], 3):
        asyncio.run(begin())
    asyncio.run(read_all(worker(store, log), log))
    assert state(store) == plain
