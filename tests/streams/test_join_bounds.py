"""What a joiner holds in memory is bounded, and at the bound nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from kafka import KafkaProducer
from prometheus_client import CollectorRegistry

from tenuto import local
from tenuto.features.matrix import Matrix, Stamp
from tenuto.features.progress import PROGRESS_DTYPE
from tenuto.features.reader import Request
from tenuto.features.rules import TimeRules
from tenuto.presets import video
from tenuto.settings import Settings, environment, load
from tenuto.snapshot import record
from tenuto.snapshot.sample_record import decode_rows
from tenuto.snapshot.sample_topic import SampleTopic
from tenuto.streams.batches import TP, Batch
from tenuto.streams.broker_log import Extent
from tenuto.streams.codec import EventCodec
from tenuto.streams.door import Limits
from tenuto.streams.heartbeats import heartbeat
from tenuto.streams.join_metrics import JoinMetrics
from tenuto.streams.join_worker import AHEAD_MS, JoinMemoryError, JoinWorker
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import Sizes, Topics, plan

T = 1_700_000_000_000
RULES = TimeRules()
STREAM = video.samples[0]
HORIZON_MS = STREAM.horizon_ms(RULES.lateness_ms)
# A batch is a minute of clicks.
BATCH_MS, CLICKS = 60_000, 2_000


def click(number: int, ts_ms: int, request_id: str = "") -> bytes:
    base = {"request_id": request_id or f"r{number}", "user_id": "u", "query": "q"}
    return orjson.dumps({**base, "item_id": f"i{number}", "position": 0, "ts": ts_ms})


def snapshot(request_id: str, ts_ms: int, item: str) -> bytes:
    nothing = np.zeros((1, 0), np.float32)
    stamp = Stamp((), np.zeros((0, 1), PROGRESS_DTYPE))
    matrix = Matrix(
        [item], (), nothing, nothing.astype(np.uint8), ts_ms, stamp, "0" * 16, {}, "u", "q"
    )
    return record.encode(record.of(Request(request_id, "u", "q", ts_ms), matrix))


@dataclass
class Logged:
    """One partition of each topic, as a worker meets it: delivered unless it is paused."""

    paused: set[TP] = field(default_factory=set)
    rows: list[pa.RecordBatch] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)

    def is_current(self, batch: Batch) -> bool:
        return True

    def pause(self, partitions: set[TP]) -> None:
        self.paused |= partitions

    def resume(self, partitions: set[TP]) -> None:
        self.paused -= partitions

    async def seek(self, tp: tuple[str, int], offset: int) -> None:
        raise AssertionError("a joiner seeks nowhere")

    async def extents(self, partitions: Any) -> dict[TP, Extent]:
        return {tp: Extent(0, 0, None) for tp in partitions}

    async def first_since(self, wanted: Any) -> dict[TP, tuple[int, int]]:
        return {}

    async def send(self, partition: int, interval: Any, value: Any, life: bytes) -> None:
        if value:
            self.rows.append(decode_rows(value))

    async def incarnation(self, topic: str) -> bytes:
        return b"the life of this"

    async def write(self, refusals: Any) -> None:
        raise AssertionError("there is nothing to refuse")

    def batch(self, topic: str, values: list[bytes], stamps_ms: list[int]) -> Batch:
        start = self.ends.get(topic, 0)
        end = self.ends[topic] = start + len(values)
        headers: list[Any] = [() if value else heartbeat().headers for value in values]
        return Batch(
            topic, 0, start, end, 0, 0, end, np.arange(start, end),
            np.array(stamps_ms, np.int64), [None] * len(values), list(values), headers,
        )  # fmt: skip


def joiner(log: Any, max_bytes: int = 1 << 30) -> JoinWorker:
    worker = JoinWorker(
        STREAM, video.events, {event.name: EventCodec(event) for event in video.events},
        snapshots_topic="snapshots", samples_topic="samples", limits=Limits(1),
        snapshot_limits=Limits(1), log=log, samples=log, dead_letters=log, judged=(), scores=(),
        metrics=JoinMetrics(CollectorRegistry()), max_bytes=max_bytes,
    )  # fmt: skip
    worker.delivery = log
    return worker


async def begun(worker: JoinWorker) -> None:
    await worker.start_positions({TP("snapshots", 0), *(TP(e.name, 0) for e in video.events)})


async def a_minute_of_clicks(worker: JoinWorker, log: Logged, minute: int) -> bool:
    """Whether the worker read them."""
    if TP("clicks", 0) in log.paused:
        return False
    base_ms = T + minute * BATCH_MS
    stamps = [base_ms + number * BATCH_MS // CLICKS for number in range(CLICKS)]
    values = [click(minute * CLICKS + number, ts) for number, ts in enumerate(stamps)]
    await worker.take(log.batch("clicks", values, stamps))
    return True


async def test_labels_wait_in_kafka_where_no_snapshot_and_no_heartbeat_comes() -> None:
    log = Logged()
    worker = joiner(log)
    await begun(worker)
    await worker.take(log.batch("snapshots", [snapshot("r0", T, "i0")], [T]))
    for other in ("impressions", "plays", "likes"):
        await worker.take(log.batch(other, [b""], [T + 86_400_000]))
    read = [minute for minute in range(1_440) if await a_minute_of_clicks(worker, log, minute)]
    # A day of clicks is there, and one snapshot that waits for the first of them.
    reach_ms = STREAM.impression_window_ms + 600_000 + RULES.lateness_ms + AHEAD_MS
    assert len(read) == reach_ms // BATCH_MS + 1
    await worker.emit()
    assert [row["clicked"] for rows in log.rows for row in rows.to_pylist()] == [1]
    # Nothing waits any more, nothing says that time goes on, and yet it is read no further.
    more = [minute for minute in range(1_440) if await a_minute_of_clicks(worker, log, minute)]
    assert not more
    await worker.take(log.batch("snapshots", [b""], [T + 3_600_000]))
    assert TP("clicks", 0) not in log.paused


async def test_a_joiner_that_begins_anew_leaves_nothing_paused() -> None:
    """A pause of lines that a rebalance has ended would never end: nobody else knows of it."""
    log = Logged()
    worker = joiner(log)
    await begun(worker)
    await worker.take(log.batch("snapshots", [snapshot("r0", T, "i0")], [T]))
    minute = 0
    while await a_minute_of_clicks(worker, log, minute):
        minute += 1
    await begun(worker)
    assert not log.paused


async def test_what_is_dropped_leaves_no_memory_behind() -> None:
    """Snapshots that keep time going: what waits is of one horizon, hour after hour."""
    log = Logged()
    registry = CollectorRegistry()
    worker = joiner(log)
    worker._metrics = JoinMetrics(registry)
    await begun(worker)
    held, clicks_read = [], 0
    for minute in range(420):
        now_ms = T + minute * BATCH_MS
        # Clicks have a shorter reach than plays: they are always read a while later.
        while clicks_read <= minute and await a_minute_of_clicks(worker, log, clicks_read):
            clicks_read += 1
        for other in ("impressions", "plays", "likes"):
            await worker.take(log.batch(other, [b""], [now_ms]))
        await worker.take(
            log.batch("snapshots", [snapshot(f"r{minute * CLICKS}", now_ms, "i")], [now_ms])
        )
        await worker.emit()
        await worker.weigh()
        value = registry.get_sample_value("tenuto_label_memory_bytes", {"partition": "0"})
        held.append(value or 0.0)
    assert clicks_read > 390
    settled = held[120:]
    rows = CLICKS * (HORIZON_MS + RULES.snapshot_lateness_ms + RULES.future_ms) / BATCH_MS
    # At most twice what may still count, of some 60 bytes.
    assert max(settled) < 2 * 60 * rows
    assert max(settled[-150:]) < 1.2 * max(settled[:150])


async def test_beyond_its_bound_a_joiner_ends_and_says_what_to_do() -> None:
    log = Logged()
    worker = joiner(log, max_bytes=1 << 20)
    await begun(worker)
    await worker.take(log.batch("snapshots", [snapshot("r0", T, "i0")], [T]))
    for minute in range(15):
        assert await a_minute_of_clicks(worker, log, minute)
    with pytest.raises(JoinMemoryError, match=r"join_memory_mb is 1.*more joiners"):
        await worker.weigh()


async def read_under(max_bytes: int) -> tuple[int, float]:
    """Minutes of clicks read while one snapshot waits, and the bytes that these take."""
    log = Logged()
    worker = joiner(log, max_bytes)
    worker._metrics = JoinMetrics(registry := CollectorRegistry())
    await begun(worker)
    await worker.take(log.batch("snapshots", [snapshot("r0", T, "i0")], [T]))
    read = 0
    for minute in range(60):
        read += await a_minute_of_clicks(worker, log, minute)
        await worker.weigh()
    held = registry.get_sample_value("tenuto_label_memory_bytes", {"partition": "0"})
    return read, held or 0.0


async def test_near_the_bound_labels_are_read_as_far_as_needed_and_no_further() -> None:
    roomy, held = await read_under(1 << 30)
    reach_ms = STREAM.impression_window_ms + 600_000 + RULES.lateness_ms
    assert roomy == (reach_ms + AHEAD_MS) // BATCH_MS + 1
    tight, _ = await read_under(int(held))
    assert reach_ms // BATCH_MS + 1 <= tight < roomy


@pytest.fixture
def settings(stack: local.LocalStack, tmp_path: Path) -> Settings:
    """One partition of driven topics, full of clicks that wait for the one snapshot's horizon."""
    found = load(
        env={
            "TENUTO_NAMESPACE": f"bound-{stack.kind}",
            "TENUTO_KAFKA__BOOTSTRAP": stack.bootstrap,
            "TENUTO_KAFKA__PARTITIONS": "1",
            "TENUTO_REDIS__URL": "redis://127.0.0.1:1/0",
            "TENUTO_WORKERS__LIVE": "false",
        }
    ).settings
    names = TopicNames(found.namespace)
    topics = plan(
        names, video.events, video.samples, partitions=1, clock="driver",
        sizes=Sizes(found.limits.event_bytes, found.limits.snapshot_bytes),
    )  # fmt: skip
    with Topics(found.kafka) as admin:
        admin.create(topics, replication_factor=1)
    producer = KafkaProducer(bootstrap_servers=stack.bootstrap, linger_ms=50, batch_size=1 << 19)
    producer.send(names.snapshots, snapshot("r0", T, "i0"), b"r0", timestamp_ms=T, partition=0)
    for number in range(60_000):
        ts = T + number
        producer.send(names.of("clicks"), click(number, ts), timestamp_ms=ts, partition=0)
    producer.flush()
    producer.close()
    return found


def end_all(settings: Settings) -> None:
    """Let time pass on every topic, so that what waits is final."""
    names, end = TopicNames(settings.namespace), heartbeat(end=True)
    producer = KafkaProducer(bootstrap_servers=settings.kafka.bootstrap)
    for topic in (*names.events(video.events).values(), names.snapshots):
        producer.send(
            topic, end.value, headers=end.headers, partition=0, timestamp_ms=T + 2 * HORIZON_MS
        )
    producer.close()


@pytest.mark.stack
def test_a_joiner_that_ends_at_its_bound_says_why_and_one_with_room_goes_on(
    settings: Settings,
) -> None:
    def start(mb: int) -> subprocess.Popen[bytes]:
        env = {**environment(settings), "TENUTO_WORKERS__JOIN_MEMORY_MB": str(mb)}
        command = [sys.executable, "-m", "tenuto", "worker", "join"]
        return subprocess.Popen(command, env={**os.environ, **env}, stderr=subprocess.PIPE)

    small = start(1)
    _, said = small.communicate(timeout=60)
    assert small.returncode == 1
    assert b"workers.join_memory_mb is 1: none of them may be dropped" in said
    end_all(settings)
    topic = SampleTopic(f"{settings.namespace}.samples", settings.kafka.bootstrap)
    roomy = start(64)
    try:
        rows: list[Any] = []
        deadline_s = time.monotonic() + 60
        while not rows:
            assert time.monotonic() < deadline_s
            rows = [row for batch in topic.batches(None) for row in batch.to_pylist()]
    finally:
        roomy.kill()
        roomy.communicate()
    assert [(row["request_id"], row["clicked"]) for row in rows] == [("r0", 1)]
