"""The Parquet sink on a real Kafka: what it leaves in its directory, killed or not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest
from kafka import KafkaProducer
from prometheus_client import CollectorRegistry

from tenuto.snapshot.dataset import Samples
from tenuto.snapshot.manifests import SampleFilesError, read_manifests
from tenuto.snapshot.sample_record import Interval, encode_rows
from tenuto.streams.sink_metrics import SinkMetrics
from tenuto.streams.sink_worker import SinkWorker

pytestmark = pytest.mark.stack
PARTITIONS = 4
SNAPSHOTS = 600
CHUNK = 100
Record = tuple[Interval, bytes | None]
NewTopicName = Callable[..., str]
Publish = Callable[[int, Sequence[Record]], None]


def record(partition: int, start: int, end: int, *, is_end: bool = False) -> Record:
    """Three rows for each snapshot offset, one offset a second."""
    offsets = np.repeat(np.arange(start, end), 3)
    batch = pa.record_batch(
        {
            "request_id": [f"{partition}-{offset}" for offset in offsets],
            "ctr": 1 / (1 + np.arange(start * 3, end * 3, dtype=np.float32)),
            "snapshot_offset": offsets,
            "snapshot_arrival_ms": offsets * 1000,
        }
    )
    return Interval(start, end, end * 1000, is_end), None if is_end else encode_rows(batch)


def chain(partition: int, *, length: int = 7) -> list[Record]:
    """What a joiner writes, with another's last record beside every fifth of its own."""
    records = []
    for number, start in enumerate(range(0, SNAPSHOTS, length)):
        records.append(record(partition, start, min(start + length, SNAPSHOTS)))
        if number % 5 == 4:
            records.append(record(partition, max(0, start - 10), start + 3))
    return records


def end(partition: int) -> Record:
    return record(partition, SNAPSHOTS, SNAPSHOTS + 1, is_end=True)


@pytest.fixture
def topic(make_topic: NewTopicName) -> str:
    return make_topic(partitions=PARTITIONS)


@pytest.fixture
def publish(bootstrap: str, topic: str) -> Iterator[Publish]:
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5)

    def send(partition: int, records: Sequence[Record]) -> None:
        for interval, value in records:
            producer.send(topic, value or b"", partition=partition, headers=interval.headers())
        producer.flush()

    yield send
    producer.close()


@pytest.fixture
def full_topic(topic: str, publish: Publish) -> str:
    for partition in range(PARTITIONS):
        publish(partition, [*chain(partition), end(partition)])
    return topic


def sink(bootstrap: str, topic: str, directory: Path, **options: object) -> SinkWorker:
    settings: dict[str, object] = {
        "chunk_offsets": CHUNK,
        "metrics": SinkMetrics(CollectorRegistry()),
    }
    return SinkWorker({"bootstrap_servers": bootstrap}, topic, directory, **(settings | options))


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.parquet")
    }


def manifests_in(directory: Path) -> list[Path]:
    return list(directory.glob("_manifests/p*/[0-9]*.json"))


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def start_process(bootstrap: str, topic: str, directory: Path) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from tenuto.streams.sink_worker import SinkWorker, run_sink; "
        "run_sink(SinkWorker({'bootstrap_servers': sys.argv[1], 'max_partition_fetch_bytes': 4096},"
        f" sys.argv[2], sys.argv[3], chunk_offsets={CHUNK}), until_end=True)"
    )
    return subprocess.Popen([sys.executable, "-c", code, bootstrap, topic, str(directory)])


async def test_each_row_is_there_once_in_order(
    bootstrap: str, full_topic: str, tmp_path: Path
) -> None:
    await sink(bootstrap, full_topic, tmp_path).run(until_end=True)
    assert Samples(tmp_path).table().column("request_id").to_pylist() == [
        f"{partition}-{offset}"
        for partition in range(PARTITIONS)
        for offset in range(SNAPSHOTS)
        for _ in range(3)
    ]
    assert [
        (manifest.start, manifest.end, manifest.is_end) for manifest in read_manifests(tmp_path, 3)
    ] == [
        *((start, start + CHUNK, False) for start in range(0, SNAPSHOTS - CHUNK, CHUNK)),
        (SNAPSHOTS - CHUNK, SNAPSHOTS, False),
        (SNAPSHOTS, SNAPSHOTS + 1, True),
    ]


async def test_it_ends_at_once_where_all_is_done(
    bootstrap: str, full_topic: str, tmp_path: Path
) -> None:
    await sink(bootstrap, full_topic, tmp_path).run(until_end=True)
    before = contents(tmp_path)
    await sink(bootstrap, full_topic, tmp_path).run(until_end=True)
    assert contents(tmp_path) == before


def test_a_sink_killed_at_any_instant_leaves_the_same_files_in_the_end(
    bootstrap: str, topic: str, publish: Publish, tmp_path: Path
) -> None:
    directory, whole = tmp_path / "killed", tmp_path / "whole"
    halves = {partition: chain(partition) for partition in range(PARTITIONS)}

    for part in range(4):
        for partition, records in halves.items():
            quarter = len(records) // 4 + 1
            publish(partition, records[part * quarter : (part + 1) * quarter])
        process = start_process(bootstrap, topic, directory)
        wait_until(lambda least=1 + part * 3: len(manifests_in(directory)) >= least)
        time.sleep(part * 0.03)
        process.kill()
        process.wait()
    for partition in range(PARTITIONS):
        publish(partition, [end(partition)])
    assert start_process(bootstrap, topic, directory).wait(timeout=60) == 0
    asyncio.run(sink(bootstrap, topic, whole).run(until_end=True))
    assert contents(directory) == contents(whole)
    for partition in range(PARTITIONS):
        assert read_manifests(directory, partition) == read_manifests(whole, partition)


def test_sigterm_ends_it_cleanly_with_what_is_done(
    bootstrap: str, topic: str, publish: Publish, tmp_path: Path
) -> None:
    publish(0, chain(0))
    process = start_process(bootstrap, topic, tmp_path)
    wait_until(lambda: len(manifests_in(tmp_path)) == 5)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    assert len(contents(tmp_path)) == 5
    assert not list(tmp_path.rglob("*.unfinished"))


async def test_it_goes_on_with_what_comes_later(
    bootstrap: str, topic: str, publish: Publish, tmp_path: Path
) -> None:
    worker = sink(bootstrap, topic, tmp_path, partitions=[1])
    running = asyncio.create_task(worker.run(until_end=True))
    await asyncio.sleep(0.5)
    publish(1, chain(1))
    await asyncio.sleep(0.5)
    publish(1, [end(1)])
    await asyncio.wait_for(running, 20)
    assert len(contents(tmp_path)) == 6


async def test_a_stopped_sink_returns(bootstrap: str, topic: str, tmp_path: Path) -> None:
    worker = sink(bootstrap, topic, tmp_path)
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(0.5)
    worker.stop()
    await asyncio.wait_for(running, 10)


async def test_several_sinks_share_a_directory_by_partition(
    bootstrap: str, full_topic: str, tmp_path: Path
) -> None:
    await asyncio.gather(
        sink(bootstrap, full_topic, tmp_path / "two", partitions=[0, 2]).run(until_end=True),
        sink(bootstrap, full_topic, tmp_path / "two", partitions=[1, 3]).run(until_end=True),
        sink(bootstrap, full_topic, tmp_path / "one").run(until_end=True),
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


async def test_a_gap_is_left_out_and_counted_until_it_is_filled(
    bootstrap: str, topic: str, publish: Publish, tmp_path: Path
) -> None:
    publish(0, [record(0, 0, 5), record(0, 9, 20), record(0, 20, 30)])
    registry = CollectorRegistry()
    worker = sink(bootstrap, topic, tmp_path, partitions=[0], metrics=SinkMetrics(registry))
    running = asyncio.create_task(worker.run(until_end=True))
    gaps = ("tenuto_sink_gaps_total", {"partition": "0"})
    await asyncio.to_thread(wait_until, lambda: registry.get_sample_value(*gaps) == 2)
    publish(0, [record(0, 5, 30), record(0, 30, 31, is_end=True)])
    await asyncio.wait_for(running, 20)
    assert Samples(tmp_path).table().num_rows == 90
    assert registry.get_sample_value("tenuto_sink_rows_total") == 90
    assert registry.get_sample_value("tenuto_sink_files_total") == 1
    assert registry.get_sample_value("tenuto_sink_bytes_total") == sum(
        map(len, contents(tmp_path).values())
    )


async def test_a_damaged_record_is_named(
    bootstrap: str, topic: str, publish: Publish, tmp_path: Path
) -> None:
    publish(2, [record(2, 0, 5), (Interval(5, 9, 0), b"no rows")])
    with pytest.raises(SampleFilesError, match=rf"{topic}\[2\]@1: damaged samples record"):
        await sink(bootstrap, topic, tmp_path).run(until_end=True)


async def test_records_of_an_earlier_life_of_the_topic_are_no_samples(
    bootstrap: str, topic: str, tmp_path: Path
) -> None:
    """What a joiner held back while the topic was deleted and made anew arrives in the new one."""
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    lives = {b"an earlier life.": [record(1, 0, 9)], b"the life of this": [*chain(0), end(0)]}
    for life, records in lives.items():
        for interval, value in records:
            producer.send(topic, value or b"", partition=0, headers=interval.headers(life)).get()
    producer.close()
    metrics = SinkMetrics(CollectorRegistry())
    worker = sink(
        bootstrap, topic, tmp_path, partitions=[0], life=b"the life of this", metrics=metrics
    )
    await worker.run(until_end=True)
    ids = pa.dataset.dataset([tmp_path / name for name in contents(tmp_path)]).to_table()[
        "request_id"
    ]
    assert set(ids.to_pylist()) == {f"0-{offset}" for offset in range(SNAPSHOTS)}
    assert metrics.foreign._value.get() == 1


async def test_samples_deleted_before_they_were_written_are_an_error(
    bootstrap: str, topic: str, publish: Publish, tmp_path: Path, make_topic: NewTopicName
) -> None:
    publish(0, chain(0))
    worker = sink(bootstrap, topic, tmp_path, partitions=[0], life=b"one life")
    running = asyncio.create_task(worker.run())
    await asyncio.to_thread(wait_until, lambda: len(contents(tmp_path)) == 5)
    worker.stop()
    await running
    # As another log of the same name would be: shorter than what was read of this one.
    other = make_topic(partitions=PARTITIONS)
    source = tmp_path / "_manifests/p0/source.json"
    source.write_text(source.read_text().replace(topic, other))
    with pytest.raises(SampleFilesError, match=r"p0 goes on from .*, but the log holds 0 to 0"):
        await sink(bootstrap, other, tmp_path, partitions=[0], life=b"one life").run()


async def test_a_topic_or_partition_that_is_not_there_is_named(
    bootstrap: str, topic: str, tmp_path: Path
) -> None:
    with pytest.raises(SampleFilesError, match="topic 'no-such-topic' has 0 partitions"):
        await sink(bootstrap, "no-such-topic", tmp_path).run()
    with pytest.raises(SampleFilesError, match="has 4 partitions: there is no partition 9"):
        await sink(bootstrap, topic, tmp_path, partitions=[0, 9]).run()
