"""Samples in their Kafka topic, each row once however often joiners repeated it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition

from tenuto.snapshot.projection import missing_from, project
from tenuto.snapshot.sample_partition import SamplePartition, SampleTopicError
from tenuto.snapshot.topic_life import topic_life

# A broker that says nothing for so long, though there is more to read, is taken for gone.
SILENT_S = 30.0
_POLL_MS = 500


@dataclass(frozen=True)
class SampleTopic:
    """What a samples topic holds.

    Args:
        topic: its name on the broker.
        bootstrap: ``"host:port"``s, separated by commas.
        offsets: record of the samples topic to begin with, by partition; else the first.
        follow: go on past the end present at the start, until every partition has its end mark;
            rows come as they arrive, in order within each partition only.
        options: further ones of ``kafka.KafkaConsumer`` (security).
        shard, shards: read only partitions whose number leaves ``shard`` modulo ``shards``.
    """

    topic: str
    bootstrap: str
    offsets: Mapping[int, int] = field(default_factory=dict)
    follow: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    shard: int = 0
    shards: int = 1

    def sharded(self, shard: int, shards: int) -> SampleTopic:
        """One of ``shards`` parts that together are the whole."""
        return replace(self, shard=shard, shards=shards)

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Rows by partition, then snapshot offset; as they arrive when following.

        Raises:
            SampleTopicError: it cannot be read, or holds a damaged record.
            ValueError: no record has a column of that name (known at the end only).
        """
        known: set[str] = set()
        for batch in self._read():
            known.update(batch.schema.names)
            yield project(batch, columns)
        missing = set(columns or ()) - known
        if known and missing:
            raise missing_from(f"topic {self.topic!r}", missing, known)

    def _read(self) -> Iterator[pa.RecordBatch]:
        options = {**self.options, "bootstrap_servers": self.bootstrap.split(",")}
        consumer = KafkaConsumer(
            **options,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
        )
        try:
            numbers = sorted(consumer.partitions_for_topic(self.topic) or ())
            if not numbers:
                raise SampleTopicError(f"{self.bootstrap}: there is no topic {self.topic!r}")
            tps = [
                TopicPartition(self.topic, number)
                for number in numbers
                if number % self.shards == self.shard
            ]
            life = topic_life(self.topic, options)
            begins, ends = consumer.beginning_offsets(tps), consumer.end_offsets(tps)
            starts = {tp: self.offsets.get(tp.partition, begins[tp]) for tp in tps}
            for tp, start in starts.items():
                if not begins[tp] <= start <= ends[tp]:
                    raise SampleTopicError(
                        f"{tp.topic}[{tp.partition}]@{start}: the log holds {begins[tp]} to "
                        f"{ends[tp]}"
                    )
            if self.follow:
                yield from self._follow(consumer, starts, life)
                return
            for tp in tps:
                yield from self._up_to(consumer, tp, starts[tp], ends[tp], life)
        finally:
            consumer.close()

    def _up_to(
        self, consumer: KafkaConsumer, tp: TopicPartition, start: int, end: int, life: bytes
    ) -> Iterator[pa.RecordBatch]:
        consumer.assign([tp])
        consumer.seek(tp, start)
        part = SamplePartition(_name(tp), life=life)
        position, heard_s = start, time.monotonic()
        while position < end and not part.chain.ended:
            for records in consumer.poll(timeout_ms=_POLL_MS).values():
                for record in records:
                    added = part.take(record) if record.offset < end else None
                    if added is not None and added.rows is not None:
                        yield added.rows
            now_s = time.monotonic()
            if consumer.position(tp) > position:
                position, heard_s = consumer.position(tp), now_s
            elif now_s - heard_s > SILENT_S:
                raise SampleTopicError(
                    f"{tp.topic}[{tp.partition}]@{position}: {self.bootstrap} did not answer for "
                    f"{SILENT_S:.0f} s, though the log goes on to {end}"
                )

    def _follow(
        self, consumer: KafkaConsumer, starts: Mapping[TopicPartition, int], life: bytes
    ) -> Iterator[pa.RecordBatch]:
        consumer.assign(list(starts))
        for tp, start in starts.items():
            consumer.seek(tp, start)
        parts = {tp: SamplePartition(_name(tp), life=life) for tp in starts}
        while not all(part.chain.ended for part in parts.values()):
            for tp, records in consumer.poll(timeout_ms=_POLL_MS).items():
                for record in records:
                    added = parts[tp].take(record)
                    if added is not None and added.rows is not None:
                        yield added.rows


def _name(tp: TopicPartition) -> str:
    return f"{tp.topic}[{tp.partition}]"
