"""The Parquet sink: one sample stream's topic into a directory, each row once.

It keeps no state but the directory: manifests say where to go on. It reads without a consumer
group, so that what it has read is never anything else than what it has written.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from tenuto.snapshot.manifests import SampleFilesError
from tenuto.snapshot.parquet import CHUNK_OFFSETS, PartitionFiles
from tenuto.snapshot.sample_partition import SamplePartition, SampleTopicError
from tenuto.streams.sink_metrics import SinkMetrics

_POLL_MS = 500


class SinkWorker:
    """Writes partitions of a samples topic as Parquet.

    Args:
        options: of ``aiokafka.AIOKafkaConsumer`` (bootstrap servers, security).
        topic: samples topic, its name on the broker.
        directory: where files go; one sample stream's own.
        partitions: to write; all of the topic without it. Each has one writer at a time.
        life: 16 bytes that name the topic's life, so that another log is not taken for this one.
        chunk_offsets: snapshot offsets of a chunk, the most that one file covers.
        metrics: of this process.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        topic: str,
        directory: str | Path,
        *,
        partitions: Collection[int] | None = None,
        life: bytes = b"",
        chunk_offsets: int = CHUNK_OFFSETS,
        metrics: SinkMetrics | None = None,
    ) -> None:
        self._options = dict(options)
        self._topic = topic
        self._directory = Path(directory)
        self._numbers = None if partitions is None else sorted(set(partitions))
        self._life = life
        self._source = f"{topic} {life.hex()}".rstrip()
        self._chunk_offsets = chunk_offsets
        self._metrics = metrics or SinkMetrics()
        self._parts: dict[int, _Partition] = {}
        self._stopping = asyncio.Event()

    async def run(self, *, until_end: bool = False) -> None:
        """Write until stopped, or until the end mark of every partition is done.

        Raises:
            SampleFilesError: the directory and the topic do not go together, or a record is
                damaged.
            OSError: the disk did not take it; nothing unfinished counts.
            KafkaError: the broker cannot be read.
        """
        numbers = await _partitions_of(self._options, self._topic)
        try:
            self._open(numbers)
            if not all(part.files.ended for part in self._parts.values()):
                await self._read()
            if not until_end:
                await self._stopping.wait()
        finally:
            for part in self._parts.values():
                part.files.close()
            self._parts.clear()

    def stop(self) -> None:
        """Make ``run`` return soon; unfinished chunks are read again by the next start."""
        self._stopping.set()

    def _open(self, numbers: Sequence[int]) -> None:
        unknown = sorted(set(self._numbers or ()) - set(numbers))
        if not numbers or unknown:
            raise SampleFilesError(
                f"topic {self._topic!r} has {len(numbers)} partitions"
                + (f": there is no partition {unknown[0]}" if unknown else ": create it first")
            )
        for number in numbers if self._numbers is None else self._numbers:
            files = PartitionFiles(
                self._directory,
                number,
                source=self._source,
                chunk_offsets=self._chunk_offsets,
            )
            self._parts[number] = _Partition(self._topic, number, self._life, files, self._metrics)

    async def _read(self) -> None:
        """Read until stopped, or until every partition has ended."""
        consumer = AIOKafkaConsumer(
            **self._options, enable_auto_commit=False, auto_offset_reset="none"
        )
        try:
            await consumer.start()
            await self._seek(consumer)
            while not self._stopping.is_set():
                await self._step(consumer)
                if all(part.files.ended for part in self._parts.values()):
                    return
        finally:
            await consumer.stop()

    async def _seek(self, consumer: AIOKafkaConsumer) -> None:
        tps = [TopicPartition(self._topic, n) for n, p in self._parts.items() if not p.files.ended]
        begins = await consumer.beginning_offsets(tps)
        ends = await consumer.end_offsets(tps)
        consumer.assign(tps)
        for tp in tps:
            files = self._parts[tp.partition].files
            offset = files.samples_offset
            if offset is not None and not begins[tp] <= offset <= ends[tp]:
                raise SampleFilesError(
                    f"{self._directory}: p{tp.partition} goes on from {tp.topic}[{tp.partition}]"
                    f"@{offset}, but the log holds {begins[tp]} to {ends[tp]}: samples were "
                    "deleted unread, or it is another log: choose an empty directory"
                )
            consumer.seek(tp, begins[tp] if offset is None else offset)

    async def _step(self, consumer: AIOKafkaConsumer) -> None:
        for tp, records in (await consumer.getmany(timeout_ms=_POLL_MS)).items():
            part = self._parts[tp.partition]
            # Compressing and fsync take their time: not on the loop that fetches.
            await _in_thread(part.take, records)
            lag = (consumer.highwater(tp) or 0) - (records[-1].offset + 1)
            self._metrics.lag.labels(tp.topic, tp.partition).set(max(0, lag))
            self._metrics.waiting.labels(tp.partition).set(part.files.waiting_bytes)
            if part.files.ended:
                consumer.pause(tp)
            if self._stopping.is_set():
                return


class _Partition:
    """One partition's samples and files."""

    def __init__(
        self, topic: str, number: int, life: bytes, files: PartitionFiles, metrics: SinkMetrics
    ) -> None:
        self.files = files
        self._samples = SamplePartition(
            f"{topic}[{number}]", files.position, arrival_ms=files.arrival_ms, life=life
        )
        self._metrics = metrics
        self._gaps = metrics.gaps.labels(number)

    def take(self, records: Sequence[Any]) -> None:
        """Take in consecutive records."""
        samples = self._samples
        before = samples.chain.gaps, samples.old, samples.foreign
        try:
            for record in records:
                if self.files.ended:
                    break
                self._take(record)
        except SampleTopicError as error:
            raise SampleFilesError(str(error)) from error
        finally:
            self._gaps.inc(samples.chain.gaps - before[0])
            self._metrics.old.inc(samples.old - before[1])
            self._metrics.foreign.inc(samples.foreign - before[2])

    def _take(self, record: Any) -> None:
        added = self._samples.take(record)
        if added is None:
            return
        for manifest in self.files.write(added.interval, added.since, added.rows, record.offset):
            self._metrics.wrote(manifest)


def run_sink(worker: SinkWorker, *, until_end: bool = False) -> None:
    """Run a sink in this process until it is done, or SIGTERM or SIGINT ends it cleanly."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        await worker.run(until_end=until_end)

    asyncio.run(main())


async def _partitions_of(options: Mapping[str, Any], topic: str) -> list[int]:
    """Numbers of the topic's partitions; none where there is no such topic."""
    # By a consumer of its own: what it is assigned leaves nothing behind.
    consumer = AIOKafkaConsumer(**options, enable_auto_commit=False)
    try:
        await consumer.start()
        # One that subscribes to a topic that is not there would wait for it in its start.
        if topic not in await consumer.topics():
            return []
        first = TopicPartition(topic, 0)
        consumer.assign([first])
        await consumer.end_offsets([first])
        return sorted(consumer.partitions_for_topic(topic))
    finally:
        await consumer.stop()


async def _in_thread(function: Callable[..., None], *arguments: Any) -> None:
    """Run it in a thread, and wait for it even when cancelled: it holds the files."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
