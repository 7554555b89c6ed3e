"""Samples as whoever trains on them reads them: from a directory and from a topic."""

from __future__ import annotations

import math
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from sample_log import Log, Shown, feed, rows_of

from tenuto import local
from tenuto.snapshot import sample_topic
from tenuto.snapshot.dataset import Samples
from tenuto.snapshot.manifests import SampleFilesError, read_manifests
from tenuto.snapshot.parquet import PartitionFiles
from tenuto.snapshot.projection import of_size, table_of
from tenuto.snapshot.sample_partition import SampleTopicError
from tenuto.snapshot.sample_record import Interval
from tenuto.snapshot.topic_life import topic_life

LOGS = [
    Log(tuple(Shown(offset, offset * 1000, 1 + offset % 3) for offset in range(30)), 31, 0),
    Log(tuple(Shown(offset, offset * 1000, 2) for offset in range(7)), 9, 1),
]
ALL_IDS = [request_id for log in LOGS for request_id in log.request_ids]


def write(directory: Path, logs: list[Log], size: int = 8) -> Path:
    for log in logs:
        files = PartitionFiles(directory, log.partition, chunk_offsets=size)
        feed(files, log.chain([3, 5, 11]))
        files.close()
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("samples"), LOGS)


def ids(batches: Iterator[pa.RecordBatch] | Samples) -> list[str]:
    return [row for batch in batches for row in batch.column("request_id").to_pylist()]


# Directories.


def test_a_directory_is_read_by_partition_then_offset(directory: Path) -> None:
    assert ids(Samples(directory)) == ALL_IDS
    table = Samples(str(directory)).table()
    assert table.column("request_id").to_pylist() == ALL_IDS
    expected = table_of([rows_of(log.snapshots, log.partition) for log in LOGS])
    assert table.equals(expected)


def test_a_file_that_no_manifest_names_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, LOGS)
    last = max((tmp_path / "_manifests/p0").glob("[0-9]*.json"))
    last.unlink()
    ends = read_manifests(tmp_path, 0)[-1].end
    assert (
        ids(Samples(tmp_path))
        == [
            f"r0-{shown.offset}"
            for shown in LOGS[0].snapshots
            if shown.offset < ends
            for _ in range(shown.items)
        ]
        + LOGS[1].request_ids
    )


def test_named_columns_come_alone_and_in_the_order_named(directory: Path) -> None:
    table = Samples(directory).table(columns=["clicked", "ctr"])
    assert table.column_names == ["clicked", "ctr"]
    assert table.num_rows == len(ALL_IDS)


def test_a_column_that_no_sample_has_is_an_error(directory: Path) -> None:
    with pytest.raises(ValueError, match=r"no column 'crt': there are .*ctr"):
        Samples(directory).table(columns=["crt", "clicked"])


def test_a_feature_is_null_in_samples_from_before_it(tmp_path: Path) -> None:
    both = Log((Shown(0, 0, 2), Shown(1, 0, 1, ("ctr", "age"))), 3)
    write(tmp_path, [both])
    assert Samples(tmp_path).table().column("age").to_pylist() == [None, None, 1.0]
    only = Samples(tmp_path).table(columns=["age"])
    assert only.schema.field("age").type == pa.float32()
    assert only.column("age").to_pylist() == [None, None, 1.0]


def test_values_of_two_definitions_are_not_put_into_one_column() -> None:
    batches = [rows_of([Shown(0, 0, 1)], digest=digest) for digest in ("a", "b")]
    with pytest.raises(ValueError, match=r"'ctr' has two definitions .* float actr and float bctr"):
        table_of(batches)


def test_frames_hold_the_same_rows(directory: Path) -> None:
    assert Samples(directory).polars()["request_id"].to_list() == ALL_IDS
    frame = Samples(directory).pandas(columns=["request_id", "click_delay_ms"])
    assert frame["request_id"].tolist() == ALL_IDS
    assert frame["click_delay_ms"].isna().sum() > 0


def test_a_directory_without_manifests_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SampleFilesError, match=f"{tmp_path}: no manifests"):
        Samples(tmp_path).table()


def test_a_damaged_byte_is_found_and_its_file_named(tmp_path: Path) -> None:
    write(tmp_path, LOGS)
    path = tmp_path / read_manifests(tmp_path, 0)[1].files[0].path
    column = pq.ParquetFile(path).metadata.row_group(0).column(2)
    data = bytearray(path.read_bytes())
    data[column.dictionary_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(SampleFilesError, match=f"{path}: damaged"):
        Samples(tmp_path).table()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, LOGS)
    path = tmp_path / read_manifests(tmp_path, 0)[1].files[0].path
    path.unlink()
    with pytest.raises(SampleFilesError, match=f"{path}: missing"):
        Samples(tmp_path).table()


@pytest.mark.parametrize("arguments", [{}, {"topic": "samples"}, {"source": "d", "topic": "t"}])
def test_samples_must_be_of_one_place(arguments: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="give a directory, kafka://host:port/topic, or topic="):
        Samples(**arguments)


def test_importing_samples_loads_no_other_library() -> None:
    code = (
        "import sys, tenuto.snapshot.dataset; "
        "print([m for m in ('torch', 'pandas', 'polars', 'kafka', 'faust') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


# Batches of one size, and torch.


@pytest.mark.parametrize("size", [1, 4, 7, 1000])
def test_batches_of_one_size_hold_the_same_rows(size: int) -> None:
    batches = [rows_of([Shown(offset, 0, 1 + offset % 5)]) for offset in range(13)]
    cut = list(of_size(batches, size))
    assert table_of(cut).equals(table_of(batches))
    assert {batch.num_rows for batch in cut[:-1]} <= {size}


def test_batches_of_one_size_are_cut_where_columns_change() -> None:
    batches = [rows_of([Shown(0, 0, 3)]), rows_of([Shown(1, 0, 3, ("ctr", "age"))])]
    assert [batch.num_rows for batch in of_size(batches, 2)] == [2, 1, 2, 1]


def test_torch_gives_tensors_and_lists_of_strings(directory: Path) -> None:
    torch = pytest.importorskip("torch")
    first, *rest = Samples(directory).torch(
        columns=["request_id", "position", "ctr", "clicked", "click_delay_ms"], batch_size=10
    )
    assert first["request_id"] == ALL_IDS[:10]
    assert [first[name].dtype for name in ("position", "ctr", "clicked", "click_delay_ms")] == [
        torch.float32, torch.float32, torch.uint8, torch.float64,
    ]  # fmt: skip
    assert math.isnan(first["position"][0])
    assert first["ctr"][:3].tolist() == [0.0, 1.0, 1.125]
    assert [row for batch in (first, *rest) for row in batch["request_id"]] == ALL_IDS
    assert {len(batch["ctr"]) for batch in rest[:-1]} == {10}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_of_a_loader_share_the_files(directory: Path, workers: int) -> None:
    pytest.importorskip("torch")
    from torch.utils.data import DataLoader

    loader = DataLoader(
        Samples(directory).torch(columns=["request_id"], batch_size=10),
        batch_size=None,
        num_workers=workers,
    )
    assert sorted(row for batch in loader for row in batch["request_id"]) == sorted(ALL_IDS)


# Topics.


@pytest.fixture
def bootstrap(embedded: local.LocalStack) -> str:
    return embedded.bootstrap


@pytest.fixture
def publish(bootstrap: str) -> Callable[..., str]:
    """Write the logs' records, and more after them, to a new topic; its name."""

    def write_topic(*more: tuple[int, Interval, bytes | None], logs: list[Log] = LOGS) -> str:
        topic = f"samples-{uuid.uuid4().hex[:8]}"
        admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        admin.create_topics([NewTopic(topic, 2, 1)])
        admin.close()
        producer = KafkaProducer(bootstrap_servers=bootstrap)
        records = [(log.partition, *record) for log in logs for record in log.chain([3, 5, 11])]
        for partition, interval, value in (*records[:2], *records[:1], *records[2:], *more):
            headers = interval.headers()
            # One in flight, as a joiner writes.
            producer.send(topic, value or b"", partition=partition, headers=headers).get()
        producer.close()
        return topic

    return write_topic


@pytest.mark.stack
def test_a_topic_gives_the_rows_that_its_directory_gives(
    bootstrap: str, publish: Callable[..., str], directory: Path
) -> None:
    topic = publish()
    from_topic = Samples(f"kafka://{bootstrap}/{topic}").table()
    assert from_topic.equals(Samples(directory).table())
    assert Samples(topic=topic, bootstrap=bootstrap).table().equals(from_topic)


@pytest.mark.stack
def test_a_topic_can_be_read_from_given_records(
    bootstrap: str, publish: Callable[..., str]
) -> None:
    topic = publish()
    # Record 3 is the third interval, from snapshot offset 5 on, after a repeated first one.
    assert ids(Samples(topic=topic, bootstrap=bootstrap, offsets={0: 3})) == [
        request_id for request_id in ALL_IDS if request_id not in {f"r0-{n}" for n in range(5)}
    ]


@pytest.mark.stack
def test_following_ends_with_the_end_marks(bootstrap: str, publish: Callable[..., str]) -> None:
    topic = publish()
    got = ids(Samples(topic=topic, bootstrap=bootstrap, follow=True))
    assert sorted(got) == sorted(ALL_IDS)


@pytest.mark.stack
def test_workers_of_a_loader_share_the_partitions(
    bootstrap: str, publish: Callable[..., str]
) -> None:
    pytest.importorskip("torch")
    from torch.utils.data import DataLoader

    samples = Samples(topic=publish(), bootstrap=bootstrap)
    loader = DataLoader(
        samples.torch(columns=["request_id"], batch_size=10), batch_size=None, num_workers=2
    )
    assert sorted(row for batch in loader for row in batch["request_id"]) == sorted(ALL_IDS)


@pytest.mark.stack
def test_a_column_that_no_record_has_is_an_error(
    bootstrap: str, publish: Callable[..., str]
) -> None:
    topic = publish()
    with pytest.raises(ValueError, match=f"topic '{topic}': no column 'crt'"):
        Samples(topic=topic, bootstrap=bootstrap).table(columns=["crt"])


@pytest.mark.stack
def test_a_damaged_record_is_named(bootstrap: str, publish: Callable[..., str]) -> None:
    topic = publish((1, Interval(7, 9, 0), b"no rows"), logs=[LOGS[0]])
    with pytest.raises(SampleTopicError, match=rf"{topic}\[1\]@0: damaged samples record"):
        Samples(topic=topic, bootstrap=bootstrap).table()


@pytest.mark.stack
def test_records_of_an_earlier_life_of_the_topic_are_no_samples(
    bootstrap: str, publish: Callable[..., str]
) -> None:
    topic = publish(logs=[])
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    life = topic_life(topic, {"bootstrap_servers": bootstrap})
    assert len(life) == 16
    for written, log in ((b"an earlier life.", LOGS[1]), (life, LOGS[0])):
        for interval, value in log.chain([3, 5, 11]):
            headers = interval.headers(written)
            producer.send(topic, value or b"", partition=0, headers=headers).get()
    producer.close()
    read = Samples(topic=topic, bootstrap=bootstrap)
    assert ids(read) == ids(Samples(topic=publish(logs=[LOGS[0]]), bootstrap=bootstrap))


@pytest.mark.stack
def test_a_topic_that_is_not_there_is_named(bootstrap: str) -> None:
    with pytest.raises(SampleTopicError, match="there is no topic 'no-such-topic'"):
        Samples(topic="no-such-topic", bootstrap=bootstrap).table()


@pytest.mark.stack
def test_a_broker_that_goes_away_is_an_error_after_a_bounded_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sample_topic, "SILENT_S", 1.0)
    with local.start("embedded", redis=False) as running:
        admin = KafkaAdminClient(bootstrap_servers=running.bootstrap)
        admin.create_topics([NewTopic("samples", 1, 1)])
        admin.close()
        producer = KafkaProducer(bootstrap_servers=running.bootstrap)
        for interval, value in LOGS[0].chain(list(range(30))):
            producer.send("samples", value, headers=interval.headers()).get()
        producer.close()
        # Less than the log holds comes with the first fetch.
        options = {"max_poll_records": 1, "fetch_max_bytes": 1, "max_partition_fetch_bytes": 1}
        samples = Samples(topic="samples", bootstrap=running.bootstrap, options=options)
        batches = samples.batches()
        next(batches)
        running.kill_broker()
        with pytest.raises(SampleTopicError, match="did not answer for 1 s"):
            list(batches)
