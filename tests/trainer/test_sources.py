"""Where samples come from: a topic and a sink's directory give the same rows and weights."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from memory_topic import Log, Record, random_log
from prometheus_client import CollectorRegistry
from sample_rows import Asked, batch_of, spec_with

from tenuto import local
from tenuto.snapshot.manifests import SampleFilesError, read_manifests
from tenuto.snapshot.parquet import PartitionFiles
from tenuto.snapshot.sample_partition import SamplePartition, SampleTopicError
from tenuto.snapshot.sample_record import Interval, encode_rows
from tenuto.trainer.checkpoints.manifest import Origin
from tenuto.trainer.checkpoints.reader import CheckpointReader
from tenuto.trainer.directory_source import DirectorySource
from tenuto.trainer.model_settings import ModelSettings
from tenuto.trainer.positions import Position, Positions
from tenuto.trainer.rows import Rows, columns_of, concat, rows_of
from tenuto.trainer.sample_source import Read, SampleSource
from tenuto.trainer.topic_source import TopicSource
from tenuto.trainer.train_metrics import TrainMetrics
from tenuto.trainer.train_settings import Mode, TrainSettings
from tenuto.trainer.trainer import Trainer
from tenuto.trainer.training import Training

SPEC = spec_with(
    ModelSettings(
        experts=2,
        expert_hidden=8,
        expert_size=8,
        tower_size=8,
        id_size=4,
        bucket_size=4,
        buckets=4,
        positions=6,
        position_size=4,
        admit_after=2,
    )
)
LOG = random_log(11, snapshots=60)


def write_topic(bootstrap: str, log: Log) -> str:
    """A topic with a log's records, at the offsets that they say."""
    topic = f"samples-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(topic, len(log.records), 1)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for partition, records in log.records.items():
        for record in records:
            sent = producer.send(
                topic, record.value or b"", partition=partition, headers=record.headers
            )
            # One in flight, as a joiner writes.
            assert sent.get(10).offset == record.offset
    producer.close()
    return topic


def write_directory(directory: Path, log: Log, *, size: int = 7) -> Path:
    """What a sink makes of a log."""
    for partition, records in log.records.items():
        files = PartitionFiles(directory, partition, chunk_offsets=size)
        part = SamplePartition(str(partition))
        for record in records:
            since = part.chain.position or 0
            if (added := part.take(record)) is not None:
                files.write(added.interval, since, added.rows, record.offset)
        assert files.ended
        files.close()
    return directory


def read_all(source: SampleSource, ahead: Sequence[int] = ()) -> dict[int, list[tuple[int, int]]]:
    """(snapshot offset, item index) of all rows, by partition, up to the ends."""
    found: dict[int, list[tuple[int, int]]] = {p: [] for p in source.partitions}
    ended: set[int] = set()
    while ended | set(ahead) != set(source.partitions):
        for read in source.poll(ahead):
            if read.rows is not None:
                rows = rows_of(read.rows, SPEC)
                found[read.partition] += keys(rows)
            if read.is_end:
                ended.add(read.partition)
    source.close()
    return found


def keys(rows: Rows) -> list[tuple[int, int]]:
    return list(zip(rows.offset.tolist(), rows.item_index.tolist(), strict=True))


def rows_from(log: Log, since: Mapping[int, int] | None = None) -> dict[int, list[Any]]:
    return {
        p: keys(
            rows_of(log.batch(p, [a for a in asked if a.offset >= (since or {}).get(p, 0)]), SPEC)
        )
        for p, asked in log.asked.items()
    }


def options(bootstrap: str) -> dict[str, Any]:
    return {"bootstrap_servers": bootstrap.split(",")}


def train(store: Path, source: Any, mode: Mode = "live", **changes: Any) -> Trainer:
    settings = TrainSettings(
        store=str(store), mode=mode, batch_rows=16, checkpoint_every="5m", window_rows=50, **changes
    )
    what = Training(SPEC, settings, "m", Origin("samples"), 120_000, 30_000)
    return Trainer(what, source, TrainMetrics(CollectorRegistry()))


def weights(store: Path) -> str:
    newest = CheckpointReader(str(store), "m").newest()
    assert newest is not None
    return f"{newest.manifest.version} {newest.manifest.weights}"


# Positions.


def test_positions_name_the_record_of_the_last_row_learnt() -> None:
    rows = rows_of(batch_of([Asked(n, n * 1000, 2) for n in range(10)]), SPEC)
    positions = Positions({1: Position(4, 7)})
    positions.came(0, 100, 3)
    positions.came(0, 105, 9)
    positions.learnt(rows.slice(0, 6))
    assert positions.now == {0: Position(100, 3), 1: Position(4, 7)}
    positions.learnt(rows.slice(6, 8))
    assert positions.now[0] == Position(100, 4)
    positions.learnt(rows.slice(8, 10))
    assert positions.now[0] == Position(105, 5)


@pytest.mark.parametrize("seed", range(12))
def test_reading_on_from_any_position_gives_the_rows_that_follow(seed: int) -> None:
    log = random_log(seed)
    for partition, records in log.records.items():
        part, positions = SamplePartition("whole"), Positions()
        taken: list[Rows] = []
        for record in records:
            added = part.take(record)
            if added is not None and added.rows is not None:
                rows = rows_of(added.rows, SPEC)
                positions.came(partition, record.offset, int(rows.offset[-1]))
                taken.append(rows)
        whole = concat(taken)
        ends = [*(np.flatnonzero(np.diff(whole.offset)) + 1).tolist(), len(whole)]
        start = 0
        for stop in ends:
            positions.learnt(whole.slice(start, stop))
            start = stop
            position = positions.now[partition]
            again = SamplePartition("again", position.snapshot)
            rest = [again.take(record) for record in records[position.record :]]
            batches = [added.rows for added in rest if added is not None and added.rows]
            found = [key for batch in batches for key in keys(rows_of(batch, SPEC))]
            assert found == keys(whole.slice(stop, len(whole)))
            assert again.chain.ended


# Directories.


def test_a_directory_gives_each_row_once_and_in_order(tmp_path: Path) -> None:
    source = DirectorySource(write_directory(tmp_path, LOG))
    assert source.partitions == [0, 1]
    assert read_all(source) == rows_from(LOG)


def test_a_directory_goes_on_from_a_position(tmp_path: Path) -> None:
    write_directory(tmp_path, LOG)
    positions = {0: Position(0, 15), 1: Position(0, 31)}
    source = DirectorySource(tmp_path, columns_of(SPEC), positions)
    assert read_all(source) == rows_from(LOG, {0: 15, 1: 31})


def test_a_partition_that_is_ahead_is_not_read(tmp_path: Path) -> None:
    source = DirectorySource(write_directory(tmp_path, LOG))
    assert read_all(source, ahead=[1]) == rows_from(LOG) | {1: []}


def test_a_directory_without_manifests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SampleFilesError, match="no manifests"):
        DirectorySource(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_directory(tmp_path, LOG)
    path = tmp_path / read_manifests(tmp_path, 1)[0].files[0].path
    path.unlink()
    with pytest.raises(SampleFilesError, match=f"{path}: missing"):
        DirectorySource(tmp_path)


@pytest.mark.parametrize("waiting_rows", [2, 200_000])
@pytest.mark.parametrize("behind", [0, 1])
def test_a_directory_in_which_a_partition_stops_early_is_learnt_to_an_end(
    behind: int, waiting_rows: int, tmp_path: Path
) -> None:
    directory = write_directory(tmp_path / "samples", LOG)
    manifests = sorted((directory / f"_manifests/p{behind}").glob("[0-9]*.json"))
    for path in manifests[len(manifests) // 3 :]:
        path.unlink()
    trainer = train(
        tmp_path / "store",
        lambda at: DirectorySource(directory, None, at),
        waiting_rows=waiting_rows,
    )
    # The rest of the other partition waits for files that may come tomorrow.
    assert any(trainer.step() for _ in range(1000))


# Topics.


@pytest.mark.stack
def test_a_topic_gives_each_row_once_and_in_order(stack: local.LocalStack) -> None:
    topic = write_topic(stack.bootstrap, LOG)
    source = TopicSource(topic, options(stack.bootstrap))
    assert source.partitions == [0, 1]
    assert read_all(source) == rows_from(LOG)


@pytest.mark.stack
def test_a_topic_goes_on_from_a_position(stack: local.LocalStack) -> None:
    topic = write_topic(stack.bootstrap, LOG)
    source = TopicSource(topic, options(stack.bootstrap), {0: Position(0, 15)})
    assert read_all(source) == rows_from(LOG, {0: 15})


@pytest.mark.stack
def test_a_paused_partition_is_read_later(stack: local.LocalStack) -> None:
    topic = write_topic(stack.bootstrap, LOG)
    with TopicSource(topic, options(stack.bootstrap)) as source:
        paused = [read for _ in range(10) for read in source.poll([1])]
        assert {read.partition for read in paused} == {0}
        rest: list[Read] = []
        while not any(read.is_end for read in rest):
            rest += source.poll([0])
        assert {read.partition for read in rest} == {1}
        assert source.lag() == {0: 0, 1: 0}


@pytest.mark.stack
def test_a_damaged_record_is_named(stack: local.LocalStack) -> None:
    log = random_log(5, partitions=1)
    last = log.records[0][-1]
    log.records[0][-1] = type(last)(last.offset, last.headers, b"no rows")
    topic = write_topic(stack.bootstrap, log)
    place = rf"{topic}\[0\]@{last.offset}: damaged samples record"
    source = TopicSource(topic, options(stack.bootstrap))
    with pytest.raises(SampleTopicError, match=place):
        read_all(source)
    source.close()


@pytest.mark.stack
def test_a_position_beyond_the_log_is_of_another_log(embedded: local.LocalStack) -> None:
    topic = write_topic(embedded.bootstrap, LOG)
    with pytest.raises(SampleTopicError, match=rf"{topic}\[1\]@9999: .* it is another log"):
        TopicSource(topic, options(embedded.bootstrap), {1: Position(9999, 5)})


@pytest.mark.stack
def test_a_topic_that_is_not_there_is_named(embedded: local.LocalStack) -> None:
    with pytest.raises(SampleTopicError, match="there is no topic 'no-such-topic'"):
        TopicSource("no-such-topic", options(embedded.bootstrap))


def test_samples_that_were_deleted_unread_are_skipped_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = [
        (Interval(8, 12, 0), encode_rows(batch_of([Asked(9, 0, 2)]))),
        (Interval(12, 13, 0), encode_rows(batch_of([Asked(12, 0, 1)]))),
    ]
    records = [Record(50 + n, i.headers(), value) for n, (i, value) in enumerate(kept)]
    part = SamplePartition("samples[0]", 5, deleted_before=51)
    added = [part.take(record) for record in records]
    assert [a is not None and a.rows is not None and a.rows.num_rows for a in added] == [2, 1]
    assert "[5, 8) were deleted before they were read" in caplog.text
    strict = SamplePartition("samples[0]", 5)
    assert [strict.take(record) for record in records] == [None, None]


def test_samples_after_deleted_ones_are_found_behind_a_repetition() -> None:
    kept = [
        (Interval(0, 5, 0), encode_rows(batch_of([Asked(4, 0, 1)]))),
        (Interval(20, 30, 0), encode_rows(batch_of([Asked(20, 0, 2)]))),
        (Interval(40, 50, 0), encode_rows(batch_of([Asked(40, 0, 3)]))),
    ]
    records = [Record(50 + n, i.headers(), value) for n, (i, value) in enumerate(kept)]
    # Of what came after the start, nothing was deleted: a gap there waits for what is missing.
    part = SamplePartition("samples[0]", 3, deleted_before=52)
    added = [part.take(record) for record in records]
    assert [a is not None and a.rows is not None and a.rows.num_rows for a in added] == [
        1,
        2,
        False,
    ]
    assert (part.missed, part.chain.gaps) == (15, 1)


# Weights.


@pytest.mark.stack
@pytest.mark.parametrize("mode", ["live", "as_of"])
def test_a_topic_and_a_directory_give_the_same_weights(
    mode: Mode, stack: local.LocalStack, tmp_path: Path
) -> None:
    topic = write_topic(stack.bootstrap, LOG)
    directory = write_directory(tmp_path / "samples", LOG)
    from_files = train(
        tmp_path / "files", lambda at: DirectorySource(directory, columns_of(SPEC), at), mode
    )
    from_files.run(until_end=True)
    few = options(stack.bootstrap) | {"max_poll_records": 4}
    for _ in range(4):
        # Stopped again and again, and gone on from a real topic.
        trainer = train(tmp_path / "topic", lambda at: TopicSource(topic, few, at), mode)
        for _ in range(6):
            trainer.step()
        trainer.close()
    trainer = train(tmp_path / "topic", lambda at: TopicSource(topic, few, at), mode)
    trainer.run(until_end=True)
    trainer.close()
    assert weights(tmp_path / "topic") == weights(tmp_path / "files")


@pytest.mark.parametrize("mode", ["live", "as_of"])
def test_a_directory_that_grew_is_learnt_on_as_if_it_had_been_whole(
    mode: Mode, tmp_path: Path
) -> None:
    whole = write_directory(tmp_path / "whole", LOG)
    grown = shutil.copytree(whole, tmp_path / "grown")
    held_back = []
    for partition in (0, 1):
        manifests = sorted((grown / f"_manifests/p{partition}").glob("[0-9]*.json"))
        held_back += [(path, path.read_bytes()) for path in manifests[len(manifests) // 2 :]]
    for path, _ in held_back:
        path.unlink()
    train(tmp_path / "b", lambda at: DirectorySource(grown, None, at), mode).run(until_end=True)
    before = weights(tmp_path / "b")
    for path, data in held_back:
        path.write_bytes(data)
    train(tmp_path / "b", lambda at: DirectorySource(grown, None, at), mode).run(until_end=True)
    train(tmp_path / "a", lambda at: DirectorySource(whole, None, at), mode).run(until_end=True)
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != before
