"""A little platform in one process: the real door, aggregation, Redis and reader, and their log."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import redis

from tenuto.features.aggregate import Aggregator, Deltas
from tenuto.features.buckets import Buckets, split_by_bucket
from tenuto.features.client import FeatureClient
from tenuto.features.connection import RedisConnection
from tenuto.features.feature import Feature
from tenuto.features.progress import Entry
from tenuto.features.reader import Reader, Request
from tenuto.features.rules import TimeRules
from tenuto.features.schema import FeatureSet
from tenuto.presets import video
from tenuto.snapshot import record
from tenuto.snapshot.audit.feature_values import FeatureAudit
from tenuto.snapshot.audit.findings import Findings
from tenuto.snapshot.audit.judging import JudgedEvent, JudgedTopic, judge_events, judge_snapshots
from tenuto.snapshot.audit.log import PartitionLog, RawRecord, RecordedLog, TopicLog
from tenuto.snapshot.audit.state import by_bucket, compare_state, decode_state, expected_state
from tenuto.streams.codec import EventCodec
from tenuto.streams.door import Limits, judge

LIFE = b"incarnation-0001"
START_MS = 1_700_000_000_000
MAX_BYTES = 1_000_000
RULES = TimeRules()


class Batch:
    """Records as the door takes them."""

    def __init__(self, topic: str, records: Sequence[RawRecord]) -> None:
        self.topic, self.partition = topic, 0
        self.offsets = np.array([r.offset for r in records], np.int64)
        self.timestamps_ms = np.array([r.timestamp_ms for r in records], np.int64)
        self.keys = [r.key for r in records]
        self.values = [r.value for r in records]
        self.headers = [r.headers for r in records]


class World:
    """Topics of one partition, the state that follows from them, and reads of it.

    ``store`` and ``entries`` are of the first bucket.
    """

    def __init__(
        self,
        url: str,
        features: Sequence[Feature],
        rules: TimeRules = RULES,
        buckets: int = 1,
        cluster: bool = False,
    ) -> None:
        self.features = FeatureSet.of(features, rules)
        layout = self.features.layout
        self.redis = redis.Redis.from_url(url)
        connection = RedisConnection(url=url, buckets=buckets, cluster=cluster)
        self.buckets = Buckets.connect(connection, layout, 1)
        self.store = self.buckets.stores[0]
        self.reader = FeatureClient(url, Reader(self.features, 1, buckets=buckets), cluster=cluster)
        self.aggregator = Aggregator(layout)
        self.records: dict[str, list[RawRecord]] = {topic: [] for topic in layout.topics}
        self.snapshots: list[RawRecord] = []
        self.of_bucket: list[dict[str, Entry]] = [{} for _ in range(buckets)]
        self.entries = self.of_bucket[0]
        for bucket in range(buckets):
            self.begin(bucket)

    def begin(self, bucket: int, rebuild_until: int = 0) -> None:
        """Enter an empty bucket at the log's start."""
        for topic in self.features.layout.topics:
            slot = self.buckets.slot(topic, 0)
            self.of_bucket[bucket][topic] = self.buckets.begin(
                bucket, slot, LIFE, 0, rebuild_until=rebuild_until
            )

    def write(self, topic: str, at: int, **fields: Any) -> None:
        """Append a record, stamped with its own time."""
        event = video.app.event(topic)
        base = {"request_id": "r0", "user_id": "u", "query": "q", "item_id": "a", "position": 0}
        body = {**base, **event.example, "ts": at, **fields}
        records = self.records[topic]
        offset = records[-1].offset + 1 if records else 0
        records.append(RawRecord(offset, at, None, EventCodec(event).encode(body), ()))

    def deltas(self, topic: str, before: int, start: int, end: int) -> tuple[Deltas, int]:
        """What the records ``[start, end)`` add, and the arrival after them."""
        batch = Batch(topic, [r for r in self.records[topic] if start <= r.offset < end])
        codec = EventCodec(video.app.event(topic))
        accepted = judge(codec, Limits(1, self.features.layout.rules), batch, before)
        return self.aggregator.deltas(topic, accepted.columns), accepted.arrival_after

    def apply(
        self,
        topic: str,
        end: int | None = None,
        *,
        chunks: int | None = None,
        buckets: Collection[int] | None = None,
    ) -> None:
        """Apply what has not been; with ``chunks`` so many scripts of the batch only."""
        slot = self.store.slot(topic, 0)
        end = _partition(self.records[topic]).end if end is None else end
        for bucket in range(len(self.buckets)) if buckets is None else buckets:
            store, entries = self.buckets.stores[bucket], self.of_bucket[bucket]
            entry = entries[topic]
            if end == entry.next:
                continue
            deltas, arrival = self.deltas(topic, entry.arrival, entry.next, end)
            mine = split_by_bucket(deltas, len(self.buckets))[bucket]
            prepared = store.prepare(slot, entry, end, arrival, mine)
            if chunks is not None:
                del prepared.calls[chunks:]
            store.run(prepared)
            found = store.entry(slot)
            assert found is not None
            entries[topic] = found

    def apply_all(self) -> None:
        for topic in self.records:
            self.apply(topic)

    def read(self, at: int, items: Sequence[str] = ("a", "b"), **given: Any) -> None:
        """Read and capture; the snapshot is stamped with its own time."""
        request = Request(f"s{len(self.snapshots)}", "u", "q", at)
        matrix = self.reader.read(request, items, given, timeout_ms=5_000)
        body = record.encode(record.of(request, matrix))
        self.snapshots.append(RawRecord(len(self.snapshots), at, None, body, ()))

    def tamper(self, **changes: Any) -> None:
        """Change fields of the last snapshot."""
        last = self.snapshots[-1]
        body = msgspec.msgpack.encode({**msgspec.msgpack.decode(last.value or b""), **changes})
        self.snapshots[-1] = replace(last, value=body)

    @property
    def last(self) -> Any:
        """The last snapshot's fields."""
        return msgspec.msgpack.decode(self.snapshots[-1].value or b"")

    def set_value(self, item: int, column: str, value: float) -> None:
        """Put another float32 into the last snapshot."""
        m = len(self.features.columns)
        values = np.frombuffer(self.last["values"], "<f4").copy()
        values[item * m + self.features.names.index(column)] = value
        self.tamper(values=values.tobytes())

    def value(self, item: int, column: str) -> float:
        m = len(self.features.columns)
        values = np.frombuffer(self.last["values"], "<f4")
        return float(values[item * m + self.features.names.index(column)])

    def log(self) -> RecordedLog:
        topics = {
            name: TopicLog(LIFE, [_partition(records)])
            for name, records in {**self.records, "snapshots": self.snapshots}.items()
        }
        return RecordedLog(topics, 1)

    def judged(self) -> dict[str, JudgedTopic[JudgedEvent]]:
        log = self.log()
        return {
            topic: judge_events(video.app.event(topic), log.topics[topic],
                                self.features.layout.rules, max_bytes=MAX_BYTES, partitions=1)
            for topic in self.records
        }  # fmt: skip

    def audit(self, log: RecordedLog | None = None) -> Findings:
        """Check every snapshot."""
        log, findings = log or self.log(), Findings()
        rules = self.features.layout.rules
        found = judge_snapshots(log.topics["snapshots"], rules, max_bytes=MAX_BYTES, partitions=1)
        assert not found.refused
        audit = FeatureAudit(self.features, log, self.judged(), {"clicked"}, findings)
        for snapshot in found.accepted[0]:
            audit.check(snapshot)
        return findings

    def audit_state(self) -> Findings:
        """Compare Redis with the log."""
        keys: dict[bytes, Any] = {
            key: store.client.get(key) for store in self.buckets.stores for key in store.all_keys()
        }
        features, rules = self.features.features, self.features.layout.rules
        events, findings = self.judged(), Findings()
        for bucket, mine in by_bucket(keys).items():
            found = decode_state(mine, features, rules, partitions=1)
            expected = expected_state(features, rules, events, found.entries, bucket)
            compare_state(expected, found, features, rules, self.log(), events, findings)
        return findings


def _partition(records: Sequence[RawRecord]) -> PartitionLog:
    """All that is left of a partition."""
    if not records:
        return PartitionLog(0, 0, records)
    return PartitionLog(records[0].offset, records[-1].offset + 1, records)
