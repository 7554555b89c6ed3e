"""The seeded log that benchmarks read, and how it is written to a broker.

Requests show ten items each; every item shown is seen, one of ten is clicked, and every second
click plays with three reports. Items and queries are drawn by Zipf's law, so that some are hot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from aiokafka import AIOKafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from numpy.typing import NDArray

from tenuto.features.matrix import Matrix, Stamp
from tenuto.features.progress import PROGRESS_DTYPE
from tenuto.features.reader import Request
from tenuto.features.schema import FeatureSet
from tenuto.presets.video_events import play_reports
from tenuto.snapshot import record
from tenuto.streams.partitions import partition_of

SHOWN = 10
START_MS = 1_700_000_000_000
_BATCH_BYTES = 900_000

Record = tuple[int, str, bytes]
"""Timestamp, key and value."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and the items that it was shown."""

    request: Request
    items: list[str]


@dataclass(frozen=True)
class Chosen:
    """What users did with what they were shown: ``(requests, SHOWN) bool`` each.

    Attributes:
        clicked: with a click.
        played: of these, with a play that converts.
    """

    clicked: NDArray[np.bool_]
    played: NDArray[np.bool_]

    @classmethod
    def regular(cls, requests: int) -> Chosen:
        """One click a request, each time on another position; every second one plays."""
        number = np.arange(requests)
        clicked = number[:, None] % SHOWN == np.arange(SHOWN)
        return cls(clicked, clicked & (number % 2 == 1)[:, None])


@dataclass(frozen=True)
class Log:
    """Records by event name, in order of their timestamps; and who was shown what, when.

    Attributes:
        records: event name → records.
        item: ``(impressions,) int64`` number of the item of each impression.
        ts_ms: ``(impressions,) int64`` event time of each impression, ascending.
        requests: who was shown what.
    """

    records: dict[str, list[Record]]
    item: NDArray[np.int64]
    ts_ms: NDArray[np.int64]
    requests: list[Asked]

    @property
    def total(self) -> int:
        """Number of records."""
        return sum(map(len, self.records.values()))

    @property
    def last_ts_ms(self) -> int:
        """Event time of the last record."""
        return max(rows[-1][0] for rows in self.records.values() if rows)


@dataclass(frozen=True)
class World:
    """How large a log is, and how wide its world.

    Attributes:
        events: records, about; impressions alone without ``actions``.
        per_s: records a second of event time.
        actions: with clicks and plays.
        even: every item as often as any other, instead of Zipf's law.
    """

    events: int
    per_s: int = 500
    items: int = 50_000
    users: int = 100_000
    queries: int = 20_000
    actions: bool = True
    seed: int = 1
    start_ms: int = START_MS
    even: bool = False

    def log(self, chosen: Chosen | None = None) -> Log:
        """The log; the same for the same world.

        Args:
            chosen: what users did, instead of one click a request.
        """
        rng = np.random.default_rng(self.seed)
        per_request = SHOWN * 1.25 if self.actions else float(SHOWN)
        number_of_requests = round(self.events / per_request)
        shown = number_of_requests * SHOWN
        item = rng.integers(0, self.items, shown) if self.even else _zipf(rng, self.items, shown)
        query = _zipf(rng, self.queries, number_of_requests)
        user = rng.integers(0, self.users, number_of_requests)
        asked_ms = self.start_ms + (
            np.arange(number_of_requests) * (per_request * 1_000 / self.per_s)
        ).astype(np.int64)
        chosen = chosen or Chosen.regular(number_of_requests)
        impressions: list[Record] = []
        clicks: list[Record] = []
        plays: list[Record] = []
        requests: list[Asked] = []
        items = item.tolist()
        for number, (ts, whose, what) in enumerate(
            zip(asked_ms.tolist(), user.tolist(), query.tolist(), strict=True)
        ):
            request_id = f"{number * 2_654_435_761 % 2**32:08x}-{number:08d}"
            base = {
                "request_id": request_id,
                "user_id": f"user-{whose:07d}",
                "query": f"query words {what}",
            }
            ids = [f"item-{i:08d}" for i in items[number * SHOWN : (number + 1) * SHOWN]]
            asked = Request(request_id, base["user_id"], base["query"], ts)
            requests.append(Asked(asked, ids))
            for at, item_id in enumerate(ids):
                row = {**base, "item_id": item_id, "position": at, "ts": ts + at}
                impressions.append((ts + at, request_id, json_of(row)))
                if not self.actions or not chosen.clicked[number, at]:
                    continue
                clicks.append((ts + 20, request_id, json_of({**row, "ts": ts + 20})))
                if chosen.played[number, at]:
                    play = {"ts": ts + 20, "play_ms": 45_000, "duration_ms": 60_000}
                    for report in play_reports(play):
                        value = json_of({**row, **report})
                        plays.append((report["ts"], request_id, value))
        records = {"impressions": impressions}
        if self.actions:
            records |= {"clicks": clicks, "plays": plays}
        for rows in records.values():
            rows.sort(key=lambda row: row[0])
        seen_ms = np.repeat(asked_ms, SHOWN) + np.tile(np.arange(SHOWN), number_of_requests)
        order = np.argsort(seen_ms, kind="stable")
        return Log(records, item[order], seen_ms[order], requests)


def json_of(row: Mapping[str, Any]) -> bytes:
    """A row as JSON, in no more memory than it needs: orjson's own bytes keep 4 kB as long as they
    are there."""
    return b"%b" % orjson.dumps(row)


def values(requests: int, columns: int, seed: int = 1) -> NDArray[np.float32]:
    """Made-up values, ``(requests, SHOWN, columns) float32``, a tenth of them missing."""
    rng = np.random.default_rng(seed)
    found = rng.lognormal(1.0, 2.0, (requests, SHOWN, columns)).astype(np.float32)
    found[rng.random(found.shape) < 0.1] = np.nan
    return found


def snapshots(
    log: Log, features: FeatureSet, partitions: int, saw: NDArray[np.float32] | None = None
) -> list[Record]:
    """A snapshot record of each request.

    Args:
        saw: what each request saw, in turn; some made-up values by default.
    """
    columns = features.columns
    shape = (SHOWN, len(columns))
    pool = values(1_024, len(columns)) if saw is None else saw
    topics = features.layout.topics
    stamp = Stamp(topics, np.zeros((len(topics), partitions), PROGRESS_DTYPE))
    states = np.zeros(shape, np.uint8)
    rows: list[Record] = []
    for number, asked in enumerate(log.requests):
        request = asked.request
        matrix = Matrix(
            asked.items, columns, pool[number % len(pool)], states, request.ts_ms, stamp,
            features.layout.digest, {}, request.user_id, request.query,
        )  # fmt: skip
        value = record.encode(record.of(request, matrix))
        rows.append((request.ts_ms, request.request_id, value))
    return rows


def _zipf(rng: np.random.Generator, size: int, count: int) -> NDArray[np.int64]:
    weights = np.cumsum(1.0 / np.arange(1, size + 1))
    found: NDArray[np.int64] = np.searchsorted(weights, rng.random(count) * weights[-1])
    return found


def publish(records: dict[str, list[Record]], bootstrap: str, partitions: int) -> None:
    """Write records in whole batches, each stamped with its event time, event name = topic."""
    asyncio.run(_publish(records, bootstrap, partitions))


async def _publish(records: dict[str, list[Record]], bootstrap: str, partitions: int) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, max_batch_size=_BATCH_BYTES, linger_ms=0
    ) as producer:
        for topic, rows in records.items():
            homes = partition_of([key for _, key, _ in rows], partitions)
            for partition in range(partitions):
                own = (rows[at] for at in np.flatnonzero(homes == partition).tolist())
                encoded = ((ts, key.encode(), value) for ts, key, value in own)
                for batch in whole_batches(producer, encoded):
                    await (await producer.send_batch(batch, topic, partition=partition))


def whole_batches(
    producer: AIOKafkaProducer, rows: Iterable[tuple[int, bytes, bytes]]
) -> Iterator[Any]:
    """Rows (timestamp, key, value) as batches that are as large as the producer allows."""
    batch = producer.create_batch()
    for ts, key, value in rows:
        if batch.append(key=key, value=value, timestamp=ts) is None:
            yield batch
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=ts)
    if batch.record_count():
        yield batch


def make_topics(bootstrap: str, partitions: int, *names: str) -> None:
    """Make topics that keep everything.

    Raises:
        TopicAlreadyExistsError: there is such a topic.
    """
    forever = {"retention.ms": "-1"}
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.create_topics(
            [NewTopic(name, partitions, 1, topic_configs=forever) for name in names]
        )
    finally:
        admin.close()
