"""Compaction's gaps in the event topics, made before a run begins.

Old records of few keys, several of each, are written and compacted; what is left of them has gaps.
"""

from __future__ import annotations

import json
import time
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from tenuto.platform import Platform
from tenuto.settings import Settings
from tenuto.streams.partitions import partition_of
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import Topics
from tenuto.topic_plan import topic_plan

_OLD_MS = 1_000_000_000_000
_KEYS, _VERSIONS = 12, 4
_COMPACTING = {
    "cleanup.policy": "compact",
    "segment.ms": "1000",
    "min.cleanable.dirty.ratio": "0.0001",
    "min.compaction.lag.ms": "0",
}
_KEPT = {"cleanup.policy": "delete", "segment.ms": "604800000"}
_WITHIN_S = 40.0


def seed_compacted(settings: Settings, platform: Platform) -> None:
    """Create the topics, and leave gaps in those of impressions and clicks.

    Raises:
        TimeoutError: the broker does not compact.
    """
    partitions = settings.kafka.partitions
    with Topics(settings.kafka) as admin:
        admin.create(topic_plan(settings, platform), replication_factor=1)
    topics = [TopicNames(settings.namespace).of(name) for name in ("impressions", "clicks")]
    options = settings.kafka.kafka_python()
    admin_client = KafkaAdminClient(**options)
    producer = KafkaProducer(**options)
    try:
        _configure(admin_client, topics, _COMPACTING)
        # The last one ends its segment: what is being written is never compacted.
        for version in range(_VERSIONS + 1):
            for key in range(_KEYS):
                _write(producer, topics, f"old{key}", version, partitions)
            # A batch of its own: a segment ends between batches.
            producer.flush(30.0)
        _wait_for_gaps(options, topics, partitions)
        _configure(admin_client, topics, _KEPT)
    finally:
        producer.close()
        admin_client.close()


def _write(producer: Any, topics: list[str], key: str, version: int, partitions: int) -> None:
    ts_ms = _OLD_MS + 2_000 * version
    fields = {
        "request_id": key, "user_id": "old", "query": "", "item_id": f"i{version}",
        "position": 0, "ts": ts_ms,
    }  # fmt: skip
    number = int(partition_of([key], partitions)[0])
    for topic in topics:
        producer.send(
            topic, json.dumps(fields).encode(), key=key.encode(), partition=number,
            timestamp_ms=ts_ms,
        )  # fmt: skip


def _configure(admin: Any, topics: list[str], settings: dict[str, str]) -> None:
    admin.alter_configs(
        [ConfigResource(ConfigResourceType.TOPIC, topic, configs=settings) for topic in topics]
    )


def _wait_for_gaps(options: Any, topics: list[str], partitions: int) -> None:
    deadline = time.monotonic() + _WITHIN_S
    places = [TopicPartition(topic, number) for topic in topics for number in range(partitions)]
    while any(
        end > 0 and count == end for count, end in (_held(options, place) for place in places)
    ):
        if time.monotonic() > deadline:
            raise TimeoutError("the broker has compacted nothing")
        time.sleep(0.5)


def _held(options: Any, place: Any) -> tuple[int, int]:
    """Records in a partition, and its end."""
    consumer = KafkaConsumer(
        **options, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    try:
        consumer.assign([place])
        end, count = consumer.end_offsets([place])[place], 0
        consumer.seek(place, 0)
        while consumer.position(place) < end:
            count += sum(len(found) for found in consumer.poll(timeout_ms=200).values())
        return count, end
    finally:
        consumer.close()
