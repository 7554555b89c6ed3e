"""A log read off a broker is whole, with its gaps; on disk it is there as a whole or refused."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from tenuto import local
from tenuto.snapshot.audit.log import PartitionLog, RawRecord, RecordedLog, TopicLog
from tenuto.snapshot.audit.recording import RecordingError, read_recording, write_recording
from tenuto.streams.connection import KafkaConnection
from tenuto.streams.recording import record
from tenuto.streams.topics import Topics

TS = 1_700_000_000_000


def topic_with(stack: local.LocalStack, partitions: int = 2) -> str:
    name = f"n.{uuid.uuid4().hex[:8]}"
    with KafkaAdminClient(bootstrap_servers=stack.bootstrap) as admin:
        admin.create_topics([NewTopic(name, partitions, 1)])
    return name


def recorded_of(stack: local.LocalStack, topic: str) -> TopicLog:
    connection = KafkaConnection(bootstrap=stack.bootstrap)
    with Topics(connection) as admin:
        log = record(connection.kafka_python(), [("short", topic)], admin.incarnation, partitions=2)
        assert log.topics["short"].incarnation == admin.incarnation(topic)
    return log.topics["short"]


def test_every_byte_of_a_record_is_kept(stack: local.LocalStack) -> None:
    topic = topic_with(stack)
    sent = [
        (b"key", b"\x00\xff value", (("a", b"1"), ("a", b"2")), TS),
        (b"none", None, (), TS + 5),
        (None, b"keyless", (), TS + 2),
        (b"", b"", (("empty", b""),), TS + 1),
        (b"large", bytes(300_000), (), TS + 9),
    ]
    producer = KafkaProducer(bootstrap_servers=stack.bootstrap)
    for key, value, headers, ts in sent:
        producer.send(
            topic, value, key=key, headers=list(headers), partition=1, timestamp_ms=ts
        ).get(20)
    producer.close()
    empty, part = recorded_of(stack, topic).partitions
    assert (empty.start, empty.end, list(empty.records)) == (0, 0, [])
    assert [(r.key, r.value, r.headers, r.timestamp_ms) for r in part.records] == sent
    assert [r.offset for r in part.records] == [0, 1, 2, 3, 4]
    assert (part.start, part.end) == (0, 5)


def test_a_transactions_markers_are_gaps_and_no_records(kafka: local.LocalStack) -> None:
    topic = topic_with(kafka)
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=uuid.uuid4().hex)
    producer.init_transactions()
    for number in range(3):
        producer.begin_transaction()
        producer.send(topic, b"%d" % number, partition=0)
        producer.commit_transaction()
    producer.close()
    part = recorded_of(kafka, topic).partitions[0]
    assert [(r.offset, r.value) for r in part.records] == [(0, b"0"), (2, b"1"), (4, b"2")]
    assert part.end == 6


def test_a_topic_that_is_not_there_is_named(embedded: local.LocalStack) -> None:
    with pytest.raises(LookupError, match=r"nowhere: no such topic"):
        record(
            {"bootstrap_servers": embedded.bootstrap},
            [("x", "nowhere")],
            lambda name: bytes(16),
            partitions=1,
        )


RECORDS = st.builds(
    RawRecord,
    offset=st.integers(0, 2**62),
    timestamp_ms=st.integers(-1, 2**60),
    key=st.none() | st.binary(max_size=4),
    value=st.none() | st.binary(max_size=4),
    headers=st.lists(st.tuples(st.text(max_size=3), st.binary(max_size=3)), max_size=2).map(tuple),
)
TOPICS = st.builds(
    TopicLog,
    incarnation=st.binary(min_size=16, max_size=16),
    partitions=st.lists(
        st.builds(
            PartitionLog,
            start=st.integers(0, 2**62),
            end=st.integers(0, 2**62),
            records=st.lists(RECORDS, max_size=4),
        ),
        max_size=3,
    ),
)
LOGS = st.builds(
    RecordedLog,
    topics=st.dictionaries(st.sampled_from(["clicks", "samples-buy", "dead-letters"]), TOPICS),
    partitions=st.integers(1, 9),
)


@settings(max_examples=30)
@given(log=LOGS)
def test_a_recording_on_disk_is_the_log(
    log: RecordedLog, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("recording") / "log"
    write_recording(log, directory)
    assert read_recording(directory) == log


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    records = [RawRecord(0, TS, b"k", b"v", ())]
    log = RecordedLog({"clicks": TopicLog(bytes(16), [PartitionLog(0, 1, records)])}, 1)
    write_recording(log, tmp_path / "log")
    return tmp_path / "log"


def test_nothing_is_written_over(directory: Path) -> None:
    with pytest.raises(RecordingError, match="choose an empty directory"):
        write_recording(read_recording(directory), directory)


def test_a_missing_changed_or_foreign_file_is_refused_by_name(directory: Path) -> None:
    path = directory / "clicks.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    with pytest.raises(RecordingError, match=r"clicks\.parquet: sha256"):
        read_recording(directory)
    path.unlink()
    with pytest.raises(RecordingError, match=r"clicks\.parquet: No such file"):
        read_recording(directory)
    index = directory / "log.json"
    told = json.loads(index.read_text())
    index.write_text(json.dumps(told | {"topics": {"../x": told["topics"]["clicks"]}}))
    with pytest.raises(RecordingError, match="not a topic's name"):
        read_recording(directory)
    index.write_text(json.dumps(told | {"v": 9}))
    with pytest.raises(RecordingError, match="v: 9"):
        read_recording(directory)
    index.write_text("{")
    with pytest.raises(RecordingError, match=r"log\.json: damaged"):
        read_recording(directory)
    index.unlink()
    with pytest.raises(RecordingError, match="not a recorded log"):
        read_recording(directory)
