"""Reading every topic of a namespace into memory, as the audit and a recording on disk want it.

Without a group and without moving anything, up to the ends found at each topic's start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from tenuto.snapshot.audit.log import PartitionLog, RawRecord, RecordedLog, TopicLog

_POLL_MS = 500
_BLOCK = 20_000
_FETCH_BYTES = 8 << 20


def record(
    connection: Mapping[str, Any],
    topics: Iterable[tuple[str, str]],
    incarnation: Callable[[str], bytes],
    *,
    partitions: int,
    timeout_s: float = 30.0,
) -> RecordedLog:
    """Everything that a namespace's topics hold, each up to its end when its turn comes.

    While a platform runs, the order decides whether the recording is whole: what a record was made
    from must lie in topics that are read after its own. ``snapshot.audit.recording_order`` gives
    one.

    Args:
        connection: options of a kafka-python client, ``bootstrap_servers`` and the like.
        topics: (name without the namespace, name on the broker) in the order of reading.
        incarnation: the 16 bytes that name the life of a topic on the broker.
        partitions: of the input topics.
        timeout_s: how long the broker may say nothing.

    Raises:
        LookupError: there is no such topic.
        TimeoutError: the broker said nothing for that long.
        KafkaError: it cannot be read.
    """
    consumer = KafkaConsumer(
        **connection,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=_BLOCK,
        max_partition_fetch_bytes=_FETCH_BYTES,
    )
    try:
        read = {
            short: _topic(consumer, name, incarnation(name), timeout_s) for short, name in topics
        }
    finally:
        consumer.close()
    return RecordedLog(read, partitions)


def _topic(consumer: Any, name: str, incarnation: bytes, timeout_s: float) -> TopicLog:
    numbers = sorted(consumer.partitions_for_topic(name) or ())
    if not numbers:
        raise LookupError(f"{name}: no such topic: create it with `tenuto topics`")
    places = [TopicPartition(name, number) for number in numbers]
    begins, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
    records: dict[Any, list[RawRecord]] = {at: [] for at in places}
    consumer.assign(places)
    for at in places:
        consumer.seek(at, begins[at])
    heard_s = time.monotonic()
    # The position passes markers and holes of a compaction, which no record tells of.
    while unread := [at for at in places if consumer.position(at) < ends[at]]:
        polled = consumer.poll(timeout_ms=_POLL_MS)
        for at, found in polled.items():
            records[at] += [_raw(record) for record in found if record.offset < ends[at]]
        if polled:
            heard_s = time.monotonic()
        elif time.monotonic() - heard_s > timeout_s:
            raise TimeoutError(f"{unread[0].topic}: the broker said nothing for {timeout_s:g} s")
    # Retention may have passed over a partition before its turn came.
    later = consumer.beginning_offsets(places)
    return TopicLog(
        incarnation,
        [
            PartitionLog(_start(records[at], begins[at], later[at]), ends[at], records[at])
            for at in places
        ],
    )


def _start(records: list[RawRecord], begin: int, later: int) -> int:
    """Offset from which nothing was deleted unread."""
    return later if not records or records[0].offset >= later else begin


def _raw(record: Any) -> RawRecord:
    headers = tuple((name, value or b"") for name, value in record.headers or ())
    return RawRecord(record.offset, record.timestamp, record.key, record.value, headers)
