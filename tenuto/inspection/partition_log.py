"""Reading stretches of one partition at a time, for somebody who looks: no group, always bounded.

This is the only module here that talks to Kafka; what is looked for is told it as a function.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition

from tenuto.streams.batches import Batch

SILENT_S = 30.0
_POLL_MS = 500
_BLOCK = 2_000

Wanted = Callable[[Any], bool]
"""Whether a kafka-python record is to be kept."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A record that was looked for, and the arrival of its partition up to and with it."""

    record: Any
    arrival_ms: int

    @property
    def batch(self) -> Batch:
        """It alone, as the doors want their records."""
        r = self.record
        return Batch(
            topic=r.topic,
            partition=r.partition,
            start=r.offset,
            end=r.offset + 1,
            generation=0,
            missed=0,
            log_end=r.offset + 1,
            offsets=np.array([r.offset], np.int64),
            timestamps_ms=np.array([r.timestamp], np.int64),
            keys=[r.key],
            values=[r.value],
            headers=[list(r.headers or ())],
        )


@dataclass
class Scan:
    """What was read of one partition.

    Attributes:
        begin, end: the log's own offsets; ``end`` is after its last record.
        start, stop: what was looked through, ``[start, stop)``.
        arrival_ms, oldest_ms: largest and smallest timestamp in it; -1 without any record.
        cut: whether the bound ended it.
    """

    topic: str
    partition: int
    begin: int
    end: int
    start: int
    stop: int
    arrival_ms: int = -1
    oldest_ms: int = -1
    cut: bool = False
    kept: list[Kept] = field(default_factory=list)

    @property
    def place(self) -> str:
        return f"{self.topic}[{self.partition}]"

    def saw(self, timestamp_ms: int) -> None:
        """Account for a record's timestamp."""
        self.arrival_ms = max(self.arrival_ms, timestamp_ms)
        self.oldest_ms = timestamp_ms if self.oldest_ms < 0 else min(self.oldest_ms, timestamp_ms)


class PartitionLog:
    """Reads partitions; a context manager.

    Args:
        options: of ``kafka.KafkaConsumer`` (bootstrap servers, security).
        max_records: how many records of one partition may be looked through at a time.
    """

    def __init__(self, options: Mapping[str, Any], max_records: int) -> None:
        self.max_records = max_records
        self._consumer = KafkaConsumer(
            **{"max_poll_records": _BLOCK, **options},
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def __enter__(self) -> PartitionLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def partitions(self, topic: str) -> int:
        """Partition count of a topic.

        Raises:
            LookupError: there is no such topic.
        """
        numbers = self._consumer.partitions_for_topic(topic)
        if not numbers:
            raise LookupError(f"{topic}: no such topic: create it with `tenuto topics`")
        return len(numbers)

    def backwards(
        self, topic: str, partition: int, wanted: Wanted, enough: Callable[[Scan], bool]
    ) -> Scan:
        """Look through a partition from its end, block by block, until there is enough.

        ``enough`` is asked after each block, which is the oldest read so far.
        """
        scan = self._open(topic, partition)
        scan.start = scan.stop = scan.end
        while scan.start > scan.begin and not enough(scan):
            if scan.stop - scan.start >= self.max_records:
                scan.cut = True
                break
            start = max(scan.begin, scan.start - _BLOCK)
            block: list[Kept] = []
            for record in self._records(topic, partition, start, scan.start):
                scan.saw(record.timestamp)
                if wanted(record):
                    block.append(Kept(record, record.timestamp))
            scan.kept[:0] = block
            scan.start = start
        return scan

    def forwards(
        self,
        topic: str,
        partition: int,
        since_ms: int,
        wanted: Wanted,
        enough: Callable[[Scan], bool] = lambda scan: False,
        until: int | None = None,
    ) -> Scan:
        """Look through a partition from the first record with a timestamp of at least ``since_ms``.

        Everything before that record is older, so arrivals are exact from it on.

        Args:
            enough: asked after each record.
            until: offset to stop before; the log's end without it.
        """
        scan = self._open(topic, partition)
        scan.start = scan.stop = self._first_since(scan, since_ms)
        end = scan.end if until is None else min(until, scan.end)
        for record in self._records(topic, partition, scan.start, end):
            if scan.stop - scan.start >= self.max_records:
                scan.cut = True
                return scan
            scan.stop = record.offset + 1
            scan.saw(record.timestamp)
            if scan.arrival_ms >= since_ms and wanted(record):
                scan.kept.append(Kept(record, scan.arrival_ms))
            if enough(scan):
                return scan
        scan.stop = max(scan.stop, end)
        return scan

    def arrival_at(self, record: Any) -> int:
        """Arrival of a record's partition at it."""
        scan = self.forwards(
            record.topic,
            record.partition,
            record.timestamp,
            lambda _: False,
            until=record.offset + 1,
        )
        return max(scan.arrival_ms, int(record.timestamp))

    def newest(self, topic: str, partition: int) -> Any | None:
        """The last record of a partition; None where it is empty."""
        scan = self._open(topic, partition)
        # A transaction's marker at the end is nothing to read.
        for start in (scan.end - 1, scan.end - _BLOCK):
            records = list(self._records(topic, partition, max(scan.begin, start), scan.end))
            if records:
                return records[-1]
        return None

    def _open(self, topic: str, partition: int) -> Scan:
        at = TopicPartition(topic, partition)
        begin = int(self._consumer.beginning_offsets([at])[at])
        end = int(self._consumer.end_offsets([at])[at])
        return Scan(topic, partition, begin, end, begin, begin)

    def _first_since(self, scan: Scan, since_ms: int) -> int:
        at = TopicPartition(scan.topic, scan.partition)
        found = self._consumer.offsets_for_times({at: max(0, since_ms)}).get(at)
        offset = scan.end if found is None or found.offset < 0 else int(found.offset)
        return min(max(scan.begin, offset), scan.end)

    def _records(self, topic: str, partition: int, start: int, end: int) -> Iterator[Any]:
        """Records with offsets in ``[start, end)``.

        Raises:
            TimeoutError: the broker says nothing, though there is more to read.
        """
        at = TopicPartition(topic, partition)
        self._consumer.assign([at])
        self._consumer.seek(at, start)
        position, heard_s = start, time.monotonic()
        while position < end:
            for records in self._consumer.poll(timeout_ms=_POLL_MS).values():
                for record in records:
                    if record.offset < end:
                        yield record
            moved = self._consumer.position(at)
            if moved > position:
                position, heard_s = moved, time.monotonic()
            elif time.monotonic() - heard_s > SILENT_S:
                raise TimeoutError(
                    f"{topic}[{partition}]@{position}: the broker did not answer for {SILENT_S:g} s"
                )
