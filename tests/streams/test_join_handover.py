"""Whenever a partition goes from one joiner to another, and however its log is cut into batches,
the samples are the same.

The joiners are real; the log is in memory, so that thousands of handovers fit into some seconds.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from prometheus_client import CollectorRegistry
from test_join_bounds import snapshot

from tenuto.features.rules import TimeRules
from tenuto.presets import video
from tenuto.snapshot.labels import SampleStream
from tenuto.snapshot.sample_record import Interval, decode_rows
from tenuto.streams.batches import TP, Batch
from tenuto.streams.broker_log import Extent
from tenuto.streams.codec import EventCodec
from tenuto.streams.door import Limits
from tenuto.streams.heartbeats import heartbeat
from tenuto.streams.join_metrics import JoinMetrics
from tenuto.streams.join_worker import JoinWorker

T = 1_700_000_000_000
MINUTE_MS = 60_000
RULES = TimeRules()
STREAM = SampleStream(
    "default",
    [video.clicked.within("2m"), video.played.within("2m"), video.liked.within("2m")],
    impression_window="1m",
)
EVENTS = {event.name: event for event in video.events}


@dataclass(frozen=True)
class Record:
    ts_ms: int
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass
class Log:
    """One partition of each topic; ``grow`` is called whenever somebody asks for its state."""

    topics: dict[str, list[Record]]
    samples: list[tuple[Interval, bytes | None, bytes]] = field(default_factory=list)
    life: bytes = b"the life of this"
    grow: Any = lambda: None

    async def extents(self, partitions: Collection[TP]) -> dict[TP, Extent]:
        found = {}
        for tp in partitions:
            if tp.topic == "samples":
                last = None
                if self.samples:
                    interval, _, life = self.samples[-1]
                    headers = interval.headers(life)
                    last = type("Last", (), {"headers": headers, "offset": len(self.samples) - 1})
                found[tp] = Extent(0, len(self.samples), last)
            else:
                found[tp] = Extent(0, len(self.topics[tp.topic]))
        self.grow()
        return found

    async def first_since(self, since: Mapping[TP, int]) -> dict[TP, tuple[int, int]]:
        found = {}
        for tp, since_ms in since.items():
            for offset, record in enumerate(self.topics[tp.topic]):
                if record.ts_ms >= since_ms:
                    found[tp] = offset, record.ts_ms
                    break
        self.grow()
        return found

    async def incarnation(self, topic: str) -> bytes:
        return self.life

    async def send(
        self, partition: int, interval: Interval, value: bytes | None, life: bytes
    ) -> None:
        self.samples.append((interval, value, life))

    async def write(self, refusals: Any) -> None:
        raise AssertionError(f"nothing is to be refused: {refusals}")

    def rows(self) -> list[dict[str, Any]]:
        """Samples as readers take them: the first record of each interval's snapshots."""
        found: list[dict[str, Any]] = []
        end = 0
        for interval, value, _ in self.samples:
            if value:
                rows = decode_rows(value).to_pylist()
                found += [row for row in rows if row["snapshot_offset"] >= end]
            end = max(end, interval.end)
        return found


@dataclass
class Reader:
    """A joiner, and what whole-batch delivery does for it."""

    log: Log
    worker: JoinWorker
    positions: dict[str, int] = field(default_factory=dict)
    paused: set[TP] = field(default_factory=set)

    @classmethod
    async def start(cls, log: Log) -> Reader:
        worker = JoinWorker(
            STREAM, video.events, {name: EventCodec(event) for name, event in EVENTS.items()},
            snapshots_topic="snapshots", samples_topic="samples", limits=Limits(1, RULES),
            snapshot_limits=Limits(1, RULES), log=log, samples=log, dead_letters=log,  # type: ignore[arg-type]
            judged=(), scores=(), metrics=JoinMetrics(CollectorRegistry()),
        )  # fmt: skip
        reader = cls(log, worker)
        worker.delivery = reader
        asked = {TP("snapshots", 0), *(TP(name, 0) for name in EVENTS)}
        found = await worker.start_positions(asked)
        reader.positions = {tp.topic: offset for tp, offset in found.items()}
        return reader

    def is_current(self, batch: Batch) -> bool:
        return True

    def pause(self, partitions: set[TP]) -> None:
        self.paused |= partitions

    def resume(self, partitions: set[TP]) -> None:
        self.paused -= partitions

    async def seek(self, tp: tuple[str, int], offset: int) -> None:
        raise AssertionError("nothing is missing")

    async def read(self, topic: str, count: int) -> bool:
        """Take so many records of a topic; whether there was one."""
        start = self.positions[topic]
        records = self.log.topics[topic][start : start + count]
        if not records or TP(topic, 0) in self.paused:
            return False
        end = self.positions[topic] = start + len(records)
        stamps = np.array([record.ts_ms for record in records], np.int64)
        batch = Batch(
            topic, 0, start, end, 0, 0, end, np.arange(start, end), stamps,
            [None] * len(records), [record.value for record in records],
            [record.headers for record in records],
        )  # fmt: skip
        await self.worker.take(batch)
        return True

    async def finish(self) -> None:
        """Read on until nothing moves any more."""
        moved = True
        while moved:
            moved = any([await self.read(topic, 50) for topic in self.positions])
            paused = set(self.paused)
            await self.worker.emit()
            moved = moved or paused != self.paused


def history(rnd: random.Random) -> Iterator[tuple[str, Record]]:
    """Requests of an hour in the order of time, their events, and now and then a mark on all."""
    found: list[tuple[int, int, str, Record]] = []
    for number in range(60):
        ts = T + rnd.randrange(60 * MINUTE_MS)
        base = {"request_id": f"r{number}", "user_id": "u", "query": "q", "item_id": f"i{number}"}

        def add(name: str, ts_ms: int, base: Any = base, **more: Any) -> None:
            value = orjson.dumps({**base, "ts": ts_ms, **more})
            found.append((ts_ms, 1, name, Record(ts_ms, value)))

        found.append((ts, 0, "snapshots", Record(ts, snapshot(f"r{number}", ts, f"i{number}"))))
        shown = ts + rnd.choice([0, rnd.randrange(30_000)])
        add("impressions", shown, position=0)
        for name in ("clicks", "likes"):
            if rnd.random() < 0.6:
                add(name, shown + rnd.choice([0, rnd.randrange(3 * MINUTE_MS)]), position=0)
    for minute in range(60):
        mark = heartbeat()
        for topic in ("snapshots", *EVENTS):
            ts = T + minute * MINUTE_MS
            found.append((ts, 2, topic, Record(ts, mark.value, tuple(mark.headers))))
    end = heartbeat(end=True)
    for topic in ("snapshots", *EVENTS):
        ts = T + 80 * MINUTE_MS
        found.append((ts, 3, topic, Record(ts, end.value, tuple(end.headers))))
    for _, _, topic, record in sorted(found, key=lambda one: one[:3]):
        yield topic, record


async def joined(seed: int, handovers: bool) -> list[dict[str, Any]]:
    """The samples of a history that is written while it is read."""
    still = list(history(random.Random(f"history {seed}")))[::-1]
    log = Log({"snapshots": [], **{name: [] for name in EVENTS}})
    pick = random.Random(f"reading {seed}")

    def write(count: int) -> None:
        for _ in range(min(count, len(still))):
            topic, record = still.pop()
            log.topics[topic].append(record)

    if handovers:
        log.grow = lambda: write(pick.randrange(30))
    readers = [await Reader.start(log)]
    topics = list(log.topics)
    while True:
        write(pick.randrange(12))
        for _ in range(pick.randrange(8)):
            await pick.choice(readers).read(pick.choice(topics), pick.randrange(1, 9))
        for reader in readers:
            if pick.random() < 0.5:
                await reader.worker.emit()
            if pick.random() < 0.2:
                await reader.worker.tell_progress()
        if handovers and still and pick.random() < 0.1:
            # For a while the one before goes on, as one does that has not heard of it yet.
            readers = [*readers[-1:], await Reader.start(log)]
        elif len(readers) > 1 and pick.random() < 0.3:
            readers = readers[-1:]
        if not still:
            readers = readers[-1:]
            await readers[0].finish()
            break
    return log.rows()


@pytest.mark.parametrize("seed", range(60))
async def test_samples_do_not_depend_on_who_joins_them(seed: int) -> None:
    undisturbed = await joined(seed, handovers=False)
    assert len(undisturbed) == 60
    assert sum(row["clicked"] for row in undisturbed) > 10
    assert pa.Table.from_pylist(await joined(seed, handovers=True)).equals(
        pa.Table.from_pylist(undisturbed)
    )


async def test_a_batch_that_leaves_records_out_ends_a_joiner() -> None:
    log = Log({"snapshots": [], **{name: [] for name in EVENTS}})
    for topic, record in history(random.Random(1)):
        log.topics[topic].append(record)
    reader = await Reader.start(log)
    assert await reader.read("snapshots", 3)
    reader.positions["snapshots"] += 1
    with pytest.raises(RuntimeError, match=r"snapshots\[0\] \[4, 7\).* offset 3 was to be next"):
        await reader.read("snapshots", 3)


async def test_what_was_written_to_an_earlier_life_of_the_samples_topic_is_no_progress() -> None:
    log = Log({"snapshots": [], **{name: [] for name in EVENTS}})
    log.samples.append((Interval(0, 10, T), None, b"an earlier life."))
    assert (await Reader.start(log)).positions["snapshots"] == 0
    log.samples.append((Interval(0, 10, T), None, log.life))
    assert (await Reader.start(log)).positions["snapshots"] == 10
