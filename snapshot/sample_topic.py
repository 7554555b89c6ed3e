"""Samples in their Kafka topic, each row once however often joiners repeated it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition

from tenuto.snapshot.chain import Chain, Kind, new_rows
from tenuto.snapshot.projection import missing_from, project
from tenuto.snapshot.sample_record import decode_rows, interval_of

logger = logging.getLogger(__name__)

# A broker that says nothing for so long, though there is more to read, is taken for gone.
SILENT_S = 30.0
_POLL_MS = 500


class SampleTopicError(RuntimeError):
    """A samples topic that cannot be read; names the place."""


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
        consumer = KafkaConsumer(
            **self.options,
            bootstrap_servers=self.bootstrap.split(","),
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
            begins, ends = consumer.beginning_offsets(tps), consumer.end_offsets(tps)
            starts = {tp: self.offsets.get(tp.partition, begins[tp]) for tp in tps}
            for tp, start in starts.items():
                if not begins[tp] <= start <= ends[tp]:
                    raise SampleTopicError(
                        f"{tp.topic}[{tp.partition}]@{start}: the log holds {begins[tp]} to "
                        f"{ends[tp]}"
                    )
            if self.follow:
                yield from self._follow(consumer, starts)
                return
            for tp in tps:
                yield from self._up_to(consumer, tp, starts[tp], ends[tp])
        finally:
            consumer.close()

    def _up_to(
        self, consumer: KafkaConsumer, tp: TopicPartition, start: int, end: int
    ) -> Iterator[pa.RecordBatch]:
        consumer.assign([tp])
        consumer.seek(tp, start)
        part = _Part(tp)
        position, heard_s = start, time.monotonic()
        while position < end and not part.chain.ended:
            for records in consumer.poll(timeout_ms=_POLL_MS).values():
                for record in records:
                    if record.offset < end:
                        yield from part.rows(record)
            now_s = time.monotonic()
            if consumer.position(tp) > position:
                position, heard_s = consumer.position(tp), now_s
            elif now_s - heard_s > SILENT_S:
                raise SampleTopicError(
                    f"{tp.topic}[{tp.partition}]@{position}: {self.bootstrap} did not answer for "
                    f"{SILENT_S:.0f} s, though the log goes on to {end}"
                )

    def _follow(
        self, consumer: KafkaConsumer, starts: Mapping[TopicPartition, int]
    ) -> Iterator[pa.RecordBatch]:
        consumer.assign(list(starts))
        for tp, start in starts.items():
            consumer.seek(tp, start)
        parts = {tp: _Part(tp) for tp in starts}
        while not all(part.chain.ended for part in parts.values()):
            for tp, records in consumer.poll(timeout_ms=_POLL_MS).items():
                for record in records:
                    yield from parts[tp].rows(record)


class _Part:
    """One partition's chain."""

    def __init__(self, tp: TopicPartition) -> None:
        self.chain = Chain()
        self._place = f"{tp.topic}[{tp.partition}]"

    def rows(self, record: Any) -> Iterator[pa.RecordBatch]:
        """The rows of a record that were not read before, if any."""
        place = f"{self._place}@{record.offset}"
        try:
            interval = interval_of(record.headers)
        except ValueError as error:
            # Without an interval it is no link of the chain: what lacks one shows as a gap.
            logger.warning("%s: %s: ignored", place, error)
            return
        verdict = self.chain.take(interval)
        if verdict.kind is Kind.GAP and self.chain.gaps == 1:
            logger.warning(
                "%s: samples of snapshot offsets [%d, %d) are missing before it: ignored until "
                "they come", place, verdict.since, interval.start,
            )  # fmt: skip
        if verdict.kind is not Kind.NEW or not record.value:
            return
        try:
            rows = new_rows(decode_rows(record.value), interval, verdict.since)
        except (pa.ArrowException, KeyError, ValueError, StopIteration) as error:
            raise SampleTopicError(f"{place}: damaged samples record: {error}") from error
        if rows.num_rows:
            yield rows
