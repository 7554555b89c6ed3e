"""What a topic holds, for tests of whoever writes to it."""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer, TopicPartition


def records_of(bootstrap: str, topic: str) -> list[Any]:
    """Every record of a topic up to its present end."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    partitions = [
        TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()
    ]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends = consumer.end_offsets(partitions)
    records: list[Any] = []
    while any(consumer.position(at) < end for at, end in ends.items()):
        for polled in consumer.poll(timeout_ms=500).values():
            records += polled
    consumer.close()
    return records
