from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from kafka.admin import KafkaAdminClient, NewTopic
from topic_records import records_of

from tenuto import local
from tenuto.presets.video_events import clicks, events, plays
from tenuto.streams.codec import EventCodec, InvalidEventError
from tenuto.streams.door import Limits, judge
from tenuto.streams.outbox import (
    BrokerUnavailableError,
    BufferFullError,
    Outbox,
    RecordTooLargeError,
    SendError,
)
from tenuto.streams.producer import AsyncEventProducer, EventProducer

NOW = 1_650_000_000_000
PARTITIONS = 4


def click(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "request_id": f"r{number}",
        "user_id": "u1",
        "query": "夜想曲",
        "item_id": "i1",
        "position": 0,
        "ts": NOW,
        **changes,
    }


@pytest.fixture
def namespace(make_topic: Callable[..., str]) -> str:
    name = f"n{uuid.uuid4().hex[:8]}"
    for event in events:
        make_topic(f"{name}.{event.name}")
    return name


@pytest.fixture
def producer(bootstrap: str, namespace: str) -> Iterator[EventProducer]:
    made = EventProducer(
        events, {"bootstrap_servers": bootstrap}, namespace=namespace, clock_ms=lambda: NOW + 7
    )
    yield made
    made.close()


def python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_it_loads_no_worker_and_no_trainer() -> None:
    code = "import sys, tenuto.streams.producer; print(*sys.modules)"
    assert not {"faust", "torch", "aiokafka", "mode"} & set(python(code).split())


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (click(position=-1), r"position: -1 in clicks: must be >= 0"),
        (click(item_id=""), r'item_id: "" in clicks: must have at least 1 character'),
        ({"ts": 1}, r"request_id: \(absent\) in clicks: must be given"),
        (click(ts=object()), r"clicks: Type is not JSON serializable: object"),
    ],
)
def test_a_record_that_is_not_as_declared_is_refused_before_anything_is_opened(
    record: dict[str, Any], message: str
) -> None:
    producer = EventProducer(events, {"bootstrap_servers": "127.0.0.1:1"})
    with pytest.raises(InvalidEventError, match=message):
        producer.send(clicks, record)
    assert producer.counts.taken == 0


def test_an_event_that_the_application_does_not_have_is_named() -> None:
    with pytest.raises(KeyError, match="no event 'purchases': there are impressions, clicks"):
        EventProducer(events, {"bootstrap_servers": "127.0.0.1:1"}).send("purchases", {})


@pytest.mark.stack
def test_a_record_is_keyed_by_its_request_and_stamped(
    producer: EventProducer, bootstrap: str, namespace: str
) -> None:
    sent = producer.send("clicks", click(), timestamp_ms=NOW + 3).result(10)
    assert (sent.topic, sent.timestamp_ms) == (f"{namespace}.clicks", NOW + 3)
    (record,) = records_of(bootstrap, f"{namespace}.clicks")
    assert (record.partition, record.offset) == (sent.partition, sent.offset)
    assert record.key == b"r0"
    assert record.headers == [("sent_at", b"1650000000007")]
    assert json.loads(record.value) == click()


@pytest.mark.stack
def test_what_it_writes_passes_the_door_of_each_partition(
    producer: EventProducer, bootstrap: str, namespace: str
) -> None:
    records = [click(n, **plays.example) for n in range(200)]
    producer.send_many(plays, records, timestamps_ms=[NOW] * 200)
    producer.flush(30)
    topic, passed = f"{namespace}.plays", 0
    for partition in range(PARTITIONS):
        batch = [r for r in records_of(bootstrap, topic) if r.partition == partition]
        accepted = judge(EventCodec(plays), Limits(PARTITIONS), Columns(topic, partition, batch))
        assert accepted.refused == []
        passed += len(accepted)
    assert passed == 200
    assert producer.counts.acknowledged == 200


class Columns:
    def __init__(self, topic: str, partition: int, records: list[Any]) -> None:
        self.topic, self.partition = topic, partition
        self.offsets = np.array([r.offset for r in records], dtype=np.int64)
        self.timestamps_ms = np.array([r.timestamp for r in records], dtype=np.int64)
        self.keys = [r.key for r in records]
        self.values = [r.value for r in records]
        self.headers = [r.headers for r in records]


@pytest.mark.stack
def test_one_bad_record_keeps_all_of_a_call_from_being_taken(producer: EventProducer) -> None:
    with pytest.raises(InvalidEventError):
        producer.send_many("clicks", [click(1), click(2, ts=-1)])
    assert producer.counts.taken == 0


@pytest.mark.stack
def test_unvalidated_records_are_written_as_they_are(bootstrap: str, namespace: str) -> None:
    with EventProducer(
        events, {"bootstrap_servers": bootstrap}, namespace=namespace, validate=False
    ) as producer:
        producer.send("clicks", click(position=-1))
    (record,) = records_of(bootstrap, f"{namespace}.clicks")
    assert json.loads(record.value)["position"] == -1


@pytest.mark.stack
def test_a_missing_topic_is_named_within_the_bound(bootstrap: str) -> None:
    producer = EventProducer(
        events, {"bootstrap_servers": bootstrap}, namespace="nowhere", max_block_ms=200
    )
    with pytest.raises(BrokerUnavailableError, match=r"nowhere\.clicks: not known to 127\.0\.0\.1"):
        producer.send("clicks", click())
    with pytest.raises(BrokerUnavailableError, match=r"nowhere\.impressions"):
        producer.connect(timeout_s=0.3)
    assert (producer.counts.refused, producer.counts.taken) == (1, 0)
    producer.close()


def test_a_broker_that_does_not_answer_is_named_within_the_bound() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = "{}:{}".format(*silent.getsockname())
        producer = EventProducer(events, {"bootstrap_servers": address}, max_block_ms=200)
        with pytest.raises(BrokerUnavailableError, match=f"{address}: no broker answered"):
            producer.send("clicks", click())
        with pytest.raises(BrokerUnavailableError, match=f"{address}: no broker answered just now"):
            producer.send("clicks", click())
        assert producer.counts.refused == 2
        producer.close()


@pytest.mark.stack
def test_too_large_a_record_is_refused(bootstrap: str, make_topic: Callable[..., str]) -> None:
    outbox = Outbox({"bootstrap_servers": bootstrap}, max_record_bytes=100)
    topic = make_topic()
    with pytest.raises(RecordTooLargeError, match="101 bytes: must be <= 100"):
        outbox.send(topic, b"x" * 101)
    outbox.send(topic, b"x" * 100).result(10)
    outbox.close()


@pytest.mark.stack
def test_a_delivery_that_fails_says_so_and_flush_does_too(
    bootstrap: str, make_topic: Callable[..., str]
) -> None:
    outbox = Outbox({"bootstrap_servers": bootstrap})
    topic = make_topic(max_message_bytes="1000")
    delivery = outbox.send(topic, b"x" * 5_000)
    with pytest.raises(SendError, match="not acknowledged"):
        delivery.result(10)
    with pytest.raises(SendError, match="failed since the last flush"):
        outbox.flush(10)
    outbox.flush(10)
    assert (outbox.counts.failed, outbox.pending_bytes) == (1, 0)
    outbox.close()


@pytest.fixture
def own_stack() -> Iterator[local.LocalStack]:
    if not os.environ.get("KAFKA_HOME"):
        pytest.skip("KAFKA_HOME names no Apache Kafka")
    with local.start("kafka", redis=False) as running:
        yield running


def test_what_is_left_when_the_broker_is_gone_fails_at_the_close_and_its_thread_ends() -> None:
    with local.start("embedded", redis=False) as stack:
        before = set(threading.enumerate())
        connection = {"bootstrap_servers": stack.bootstrap}
        with KafkaAdminClient(**connection) as admin:
            admin.create_topics([NewTopic("clicks", PARTITIONS, 1)])
        outbox = Outbox(connection)
        outbox.connect(["clicks"])
        stack.kill_broker()
        sending = outbox.send("clicks", b"{}")
        with pytest.raises(TimeoutError, match="not acknowledged"):
            outbox.close(0.1)
        with pytest.raises(SendError):
            sending.result(10)
        for thread in set(threading.enumerate()) - before:
            thread.join(10)
        assert set(threading.enumerate()) == before


@pytest.mark.stack
def test_over_an_outage_the_buffer_fills_to_its_bound_and_nothing_taken_is_lost(
    own_stack: local.LocalStack,
) -> None:
    connection = {"bootstrap_servers": own_stack.bootstrap}
    with KafkaAdminClient(**connection) as admin:
        admin.create_topics([NewTopic(event.name, PARTITIONS, 1) for event in events])
    producer = EventProducer(events, connection, max_pending_bytes=50_000, max_block_ms=100)
    producer.connect()
    producer.send("clicks", click(0)).result(10)
    own_stack.kill_broker()
    with pytest.raises(BufferFullError, match="wait for the broker"):
        producer.send_many("clicks", [click(number) for number in range(1, 10_000)])
    taken = producer.counts.taken
    assert 50 < taken < 1_000
    with pytest.raises(TimeoutError):
        producer.flush(0.1)
    own_stack.restart_broker()
    producer.flush(60)
    producer.send("clicks", click(0)).result(10)
    assert (producer.counts.taken, producer.counts.acknowledged) == (taken + 1, taken + 1)
    assert producer.counts.refused == 1
    producer.close()
    keys = [record.key for record in records_of(own_stack.bootstrap, "clicks")]
    assert len(keys) == taken + 1
    assert set(keys) == {b"r%d" % number for number in range(taken)}


FORKING = """
import os, sys, threading
from tenuto.presets.video_events import events
from tenuto.streams.producer import EventProducer

def click(number):
    return {"request_id": f"r{number}", "user_id": "u", "query": "", "item_id": "i", "ts": 1}

producer = EventProducer(events, {"bootstrap_servers": sys.argv[1]}, namespace=sys.argv[2])
producer.send("clicks", click(0)).result(10)
waiting = [producer.send("clicks", click(n)) for n in range(1, 50)]
children = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        assert producer.counts.taken == 0
        for number in range(10):
            producer.send("clicks", click(100 * (child + 1) + number))
        producer.flush(20)
        # A usual end: exit handlers and the garbage collector run.
        sys.exit(0)
    children.append(pid)
statuses = [os.waitpid(pid, 0)[1] for pid in children]
producer.send("clicks", click(50)).result(10)
producer.flush(20)
producer.close()
print(statuses, producer.counts.taken)
"""


@pytest.mark.stack
def test_a_forked_child_makes_its_own_client_and_leaves_its_parents_alone(
    bootstrap: str, namespace: str
) -> None:
    assert python(FORKING, bootstrap, namespace) == "[0, 0, 0] 0"
    keys = [record.key.decode() for record in records_of(bootstrap, f"{namespace}.clicks")]
    expected = [f"r{n}" for n in range(51)]
    expected += [f"r{100 * child + n}" for child in (1, 2, 3) for n in range(10)]
    assert sorted(keys) == sorted(expected)


@pytest.mark.stack
def test_threads_share_one_producer(
    producer: EventProducer, bootstrap: str, namespace: str
) -> None:
    def send(first: int) -> None:
        producer.send_many("clicks", [click(first + n) for n in range(100)])

    threads = [threading.Thread(target=send, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    producer.flush(20)
    keys = {record.key for record in records_of(bootstrap, f"{namespace}.clicks")}
    assert keys == {b"r%d" % n for n in range(400)}


@pytest.mark.stack
async def test_the_async_producer_returns_once_a_record_is_acknowledged(
    bootstrap: str, namespace: str
) -> None:
    async with AsyncEventProducer(
        events, {"bootstrap_servers": bootstrap}, namespace=namespace
    ) as producer:
        sent = await producer.send("clicks", click(), timestamp_ms=NOW)
        assert (sent.topic, sent.timestamp_ms) == (f"{namespace}.clicks", NOW)
        many = await producer.send_many(clicks, [click(n) for n in range(100)])
        assert len({(at.partition, at.offset) for at in many}) == 100
        with pytest.raises(InvalidEventError):
            await producer.send("clicks", click(ts=-1))
        assert producer.counts.acknowledged == 101
    assert len(records_of(bootstrap, f"{namespace}.clicks")) == 101


async def test_the_async_producer_never_blocks_the_loop() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = "{}:{}".format(*silent.getsockname())
        producer = AsyncEventProducer(events, {"bootstrap_servers": address}, max_block_ms=500)
        sending = asyncio.create_task(producer.send("clicks", click()))
        turns = 0
        while not sending.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 5
        with pytest.raises(BrokerUnavailableError):
            await sending
        await producer.close()
