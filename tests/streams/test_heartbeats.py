from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError
from kafka import KafkaConsumer, TopicPartition

from tenuto.streams.headers import header, sent_at_ms
from tenuto.streams.heartbeats import HeartbeatWriter, heartbeat, is_end, is_heartbeat


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_heartbeat_is_known_by_its_empty_value_and_its_header() -> None:
    value, headers = heartbeat()
    assert is_heartbeat(value, headers)
    assert is_heartbeat(None, headers)
    assert not is_heartbeat(b"x", headers)
    assert not is_heartbeat(b"", [])
    assert not is_heartbeat(b"", None)
    assert not is_end(headers)


def test_an_end_mark_is_a_heartbeat_that_says_so() -> None:
    value, headers = heartbeat(end=True)
    assert is_heartbeat(value, headers)
    assert is_end(headers)


def test_the_first_header_of_a_name_counts() -> None:
    assert header([("a", b"1"), ("a", b"2")], "a") == b"1"
    assert header((), "a") is None


@pytest.mark.parametrize("value", [b"", b"soon", b"-1", b"9" * 400, "٣".encode()])
def test_a_time_of_sending_that_is_none_is_ignored(value: bytes) -> None:
    assert sent_at_ms([("sent_at", value)]) is None
    assert sent_at_ms([("sent_at", b"1650000000000")]) == 1_650_000_000_000


def test_a_partition_is_due_when_it_has_been_silent_for_a_second() -> None:
    clock = Clock()
    writer = HeartbeatWriter(None, clock=clock)
    writer.assign([("clicks", 0), ("clicks", 1)])
    assert writer.due() == []
    clock.now_s += 0.6
    writer.seen("clicks", 1)
    writer.seen("plays", 7)
    clock.now_s += 0.5
    assert writer.due() == [("clicks", 0)]


def test_a_new_assignment_keeps_the_silences_of_partitions_that_stay() -> None:
    clock = Clock()
    writer = HeartbeatWriter(None, clock=clock)
    writer.assign([("clicks", 0), ("clicks", 1)])
    clock.now_s += 1.0
    writer.assign([("clicks", 0), ("clicks", 2)])
    assert writer.due() == [("clicks", 0)]


@pytest.mark.stack
async def test_silent_partitions_get_one_heartbeat_each_and_are_silent_anew(
    bootstrap: str, make_topic: Callable[..., str]
) -> None:
    topic, clock = make_topic(), Clock()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        writer = HeartbeatWriter(producer, clock=clock)
        writer.assign([(topic, 1), (topic, 3)])
        clock.now_s += 1.0
        assert await writer.beat() == 2
        assert await writer.beat() == 0
        clock.now_s += 1.0
        writer.seen(topic, 3)
        assert await writer.beat() == 1
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    partitions = [TopicPartition(topic, number) for number in range(4)]
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    assert [ends[at] for at in partitions] == [0, 2, 0, 1]
    record = next(consumer)
    consumer.close()
    assert is_heartbeat(record.value, record.headers)
    assert record.key is None


@pytest.mark.stack
async def test_a_heartbeat_that_the_broker_does_not_take_is_counted_and_the_task_goes_on(
    bootstrap: str,
) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, request_timeout_ms=500, retry_backoff_ms=50
    ) as producer:
        writer = HeartbeatWriter(producer, silent_after_s=0.05)
        writer.assign([("no-such-topic", 0)])
        task = asyncio.create_task(writer.run())
        await asyncio.sleep(1.5)
        assert writer.failed
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_an_error_that_no_other_attempt_would_mend_ends_the_task() -> None:
    class Forbidden:
        async def send_and_wait(self, *_: object, **__: object) -> None:
            raise TopicAuthorizationFailedError("clicks")

    writer = HeartbeatWriter(Forbidden(), silent_after_s=0.01)
    writer.assign([("clicks", 0)])
    with pytest.raises(TopicAuthorizationFailedError):
        await asyncio.wait_for(writer.run(), timeout=10)
