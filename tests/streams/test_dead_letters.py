from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaProducer

from tenuto.streams.dead_letters import (
    OVERHEAD_BYTES,
    DeadLetter,
    DeadLetterWriter,
    count_by_reason,
    letter,
    parse,
    read,
)
from tenuto.streams.refusals import Reason, Refusal

MAX_BYTES = 64 * 1024
TOO_MUCH = MAX_BYTES - OVERHEAD_BYTES + 1


def refusal(
    offset: int,
    value: bytes | None = b"\xff{",
    *,
    topic: str = "ns.clicks",
    reason: Reason = Reason.MALFORMED,
    key: bytes | None = b"r1",
    text: str = "why",
) -> Refusal:
    return Refusal(topic, 2, offset, reason, text, value, key, 1_650_000_000_000)


@given(
    st.none() | st.binary(max_size=30),
    st.none() | st.binary(max_size=300),
    st.sampled_from(Reason),
    st.text(max_size=50),
)
def test_a_letter_holds_the_untouched_bytes_the_origin_and_the_reason(
    value: bytes | None, key: bytes | None, reason: Reason, text: str
) -> None:
    refused = refusal(7, value, key=key, reason=reason, text=text)
    record = letter(refused, max_value_bytes=30)
    assert record.key == b"ns.clicks/2/7"
    long_key = key is not None and len(key) > 256
    assert parse(record.value, record.headers) == DeadLetter(
        topic="ns.clicks",
        partition=2,
        offset=7,
        reason=reason.value,
        text=text.encode(errors="replace").decode(),
        value=value or b"",
        key=None if long_key else key,
        key_sha256=hashlib.sha256(key).hexdigest() if long_key and key else None,
        timestamp_ms=1_650_000_000_000,
        truncated_from_bytes=None,
    )


def test_a_letter_that_would_not_fit_is_cut_and_says_how_long_it_was() -> None:
    record = letter(refusal(7, b"x" * 31), max_value_bytes=30)
    assert record.value == b"x" * 30
    assert parse(record.value, record.headers).truncated_from_bytes == 31


def test_a_letters_headers_stay_small_whatever_was_refused() -> None:
    record = letter(refusal(7, key=b"k" * 10**6, text="é" * 10**6), max_value_bytes=100)
    assert len(record.key) + sum(len(n) + len(v) for n, v in record.headers) < OVERHEAD_BYTES / 2
    parse(record.value, record.headers)


def test_a_record_without_the_headers_is_no_dead_letter() -> None:
    with pytest.raises(ValueError, match="header 'origin-topic' is missing"):
        parse(b"", [])


@pytest.fixture
async def producer(bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", max_request_size=2**21
    ) as started:
        yield started


@pytest.mark.stack
async def test_letters_are_acknowledged_before_write_returns(
    producer: AIOKafkaProducer, bootstrap: str, make_topic: Callable[..., str]
) -> None:
    topic = make_topic(max_message_bytes=str(MAX_BYTES))
    writer = DeadLetterWriter(producer, topic, max_message_bytes=MAX_BYTES)
    refused = [
        refusal(0),
        refusal(1, b"", reason=Reason.EMPTY),
        refusal(2, b"x" * TOO_MUCH, reason=Reason.OVERSIZED),
        refusal(3, topic="ns.plays", key=None),
    ]
    await writer.write(refused)
    await writer.write([])
    found = {(dead.topic, dead.offset): dead for dead in read(options(bootstrap), topic)}
    assert set(found) == {(each.topic, each.offset) for each in refused}
    assert found["ns.clicks", 0].value == b"\xff{"
    assert found["ns.clicks", 2].truncated_from_bytes == TOO_MUCH
    assert found["ns.plays", 3].key is None
    assert (writer.written, writer.truncated) == (4, 1)


@pytest.mark.stack
async def test_a_flood_of_refused_records_is_written(
    producer: AIOKafkaProducer, bootstrap: str, make_topic: Callable[..., str]
) -> None:
    topic = make_topic()
    writer = DeadLetterWriter(producer, topic, max_message_bytes=MAX_BYTES)
    # As many as one fetch brings: aiokafka gave up when it was told of all at once.
    await writer.write([refusal(at, b"x" * 250) for at in range(20_000)])
    assert writer.written == 20_000
    assert sum(1 for _ in read(options(bootstrap), topic)) == 20_000


@pytest.mark.stack
async def test_letters_that_are_too_large_only_together_are_whole(
    bootstrap: str, make_topic: Callable[..., str]
) -> None:
    topic = make_topic(max_message_bytes="16384")
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, max_batch_size=2**18) as large:
        writer = DeadLetterWriter(large, topic, max_message_bytes=MAX_BYTES)
        await writer.write([refusal(at, b"x" * 5_000) for at in range(30)])
    found = sorted(read(options(bootstrap), topic), key=lambda dead: dead.offset)
    assert [(dead.offset, len(dead.value)) for dead in found] == [(at, 5_000) for at in range(30)]
    assert (writer.written, writer.truncated) == (30, 0)


@pytest.mark.stack
async def test_a_letter_written_twice_is_one(
    producer: AIOKafkaProducer, bootstrap: str, make_topic: Callable[..., str]
) -> None:
    topic = make_topic()
    writer = DeadLetterWriter(producer, topic, max_message_bytes=MAX_BYTES)
    await writer.write([refusal(0), refusal(1), refusal(2, reason=Reason.LATE)])
    await writer.write([refusal(1), refusal(2, reason=Reason.LATE)])
    assert count_by_reason(read(options(bootstrap), topic)) == {
        ("ns.clicks", "malformed"): 2,
        ("ns.clicks", "late"): 1,
    }


@pytest.mark.stack
async def test_a_topic_that_allows_less_than_it_was_said_to_gets_a_shorter_letter(
    producer: AIOKafkaProducer, bootstrap: str, make_topic: Callable[..., str]
) -> None:
    topic = make_topic(max_message_bytes="16384")
    writer = DeadLetterWriter(producer, topic, max_message_bytes=MAX_BYTES)
    await writer.write([refusal(0, b"x" * 40_000), refusal(1, b"y")])
    found = {dead.offset: dead for dead in read(options(bootstrap), topic)}
    assert found[0].truncated_from_bytes == 40_000
    assert found[1].value == b"y"
    assert (writer.written, writer.truncated) == (2, 1)


@pytest.mark.stack
async def test_letters_that_are_not_acknowledged_are_an_error(bootstrap: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, request_timeout_ms=500) as impatient:
        writer = DeadLetterWriter(impatient, "no-such-topic", max_message_bytes=MAX_BYTES)
        with pytest.raises(KafkaError):
            await writer.write([refusal(0)])
    assert writer.written == 0


@pytest.mark.stack
def test_reading_names_a_topic_that_is_not_there(bootstrap: str) -> None:
    with pytest.raises(LookupError, match="no-such-topic: no such topic"):
        list(read(options(bootstrap), "no-such-topic"))


@pytest.mark.stack
def test_reading_passes_over_foreign_records_and_empty_topics(
    bootstrap: str, make_topic: Callable[..., str]
) -> None:
    topic = make_topic()
    assert list(read(options(bootstrap), topic)) == []
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    producer.send(topic, b"hello").get(10)
    producer.close()
    assert list(read(options(bootstrap), topic)) == []


def options(bootstrap: str) -> dict[str, str]:
    return {"bootstrap_servers": bootstrap}
