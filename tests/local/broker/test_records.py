"""Records through brokers and unmodified clients: ours must do what Apache Kafka does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, errors
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import (
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    OffsetOutOfRangeError,
)
from kafka.protocol.producer import InitProducerIdRequest
from raw_client import RawClient, fetch_request, produce_request
from record_batches import GZIP, batch, parsed

from tenuto import local
from tenuto.local.broker.errors import Code

pytestmark = pytest.mark.stack
MakeTopic = Callable[..., str]
HOUR_MS = 3_600_000


def read(bootstrap: str, topic: str, count: int) -> list[Any]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, consumer_timeout_ms=20_000)
    try:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek_to_beginning()
        return [next(consumer) for _ in range(count)]
    finally:
        consumer.close()


def write(bootstrap: str, topic: str, *values: bytes, **options: Any) -> list[Any]:
    producer = KafkaProducer(bootstrap_servers=bootstrap, **options)
    try:
        return [producer.send(topic, value, partition=0).get(10) for value in values]
    finally:
        producer.close()


def test_a_record_comes_back_as_it_was_sent(bootstrap: str, make_topic: MakeTopic) -> None:
    topic = make_topic()
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    headers = [("a", b"1"), ("a", b""), ("b", b"\xff")]
    producer.send(topic, b"v", key=b"k", headers=headers, timestamp_ms=1_700_000_000_123)
    producer.send(topic, None, key=b"k", timestamp_ms=1_700_000_000_124)
    producer.send(topic, b"")
    producer.close()
    first, second, third = read(bootstrap, topic, 3)
    assert (first.key, first.value, first.timestamp) == (b"k", b"v", 1_700_000_000_123)
    assert [tuple(header) for header in first.headers] == headers
    assert (second.key, second.value, second.offset) == (b"k", None, 1)
    assert (third.key, third.value) == (None, b"")


async def test_aiokafka_reads_what_it_wrote_while_it_waits(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    async with (
        AIOKafkaConsumer(
            topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest"
        ) as reader,
        AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer,
    ):
        for number in range(20):
            await producer.send_and_wait(topic, b"%d" % number, headers=[("n", b"%d" % number)])
            record = await reader.getone()
            assert (record.offset, record.value) == (number, b"%d" % number)
            assert record.headers == (("n", b"%d" % number),)


def test_compressed_batches_are_handed_on_as_they_are(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    write(bootstrap, topic, b"x" * 10_000, compression_type="gzip", linger_ms=50)
    (record,) = read(bootstrap, topic, 1)
    assert record.value == b"x" * 10_000
    with RawClient(bootstrap) as client:
        assert len(client.fetch(topic, {0: 0})[0].records) < 1_000


@pytest.mark.parametrize("compression", [0, GZIP])
def test_the_first_record_since_a_time_is_found(
    bootstrap: str, make_topic: MakeTopic, compression: int
) -> None:
    topic = make_topic()
    stamps = [[100, 300, 200], [250], [400, 50, 400], [350]]
    with RawClient(bootstrap) as client:
        for some in stamps:
            client.produce(topic, {0: batch([b"x"] * len(some), some, compression=compression)})
    flat = [stamp for some in stamps for stamp in some]
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    at = TopicPartition(topic, 0)
    for since_ms in (0, 100, 101, 201, 250, 300, 301, 400, 401):
        found = consumer.offsets_for_times({at: since_ms})[at]
        expected = next((n for n, stamp in enumerate(flat) if stamp >= since_ms), None)
        assert (found and found.offset) == expected
        assert found is None or found.timestamp == flat[found.offset]
    consumer.close()


def test_the_broker_stamps_records_of_a_log_append_time_topic(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic(message_timestamp_type="LogAppendTime")
    before_ms = int(time.time() * 1_000)
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    sent = producer.send(topic, b"x", timestamp_ms=1_000).get(10)
    producer.close()
    (record,) = read(bootstrap, topic, 1)
    assert before_ms <= record.timestamp <= before_ms + HOUR_MS
    assert (record.timestamp, record.timestamp_type) == (sent.timestamp, 1)


def test_a_record_larger_than_the_topics_limit_is_refused(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic(max_message_bytes="2000")
    write(bootstrap, topic, b"x" * 1_900)
    with pytest.raises(MessageSizeTooLargeError):
        write(bootstrap, topic, b"x" * 2_000)


@pytest.mark.parametrize("compression", [0, GZIP])
def test_stamps_outside_the_topics_limits_are_refused(
    bootstrap: str, make_topic: MakeTopic, compression: int
) -> None:
    now_ms = int(time.time() * 1_000)
    ahead = batch([b"x"] * 2, [now_ms, now_ms + 2 * HOUR_MS], compression=compression)
    behind = batch([b"x"] * 2, [now_ms, now_ms - 2 * HOUR_MS], compression=compression)
    wide = str(2**63 - 1)
    narrow = make_topic(message_timestamp_before_max_ms=str(HOUR_MS))
    open_ended = make_topic(
        message_timestamp_before_max_ms=wide, message_timestamp_after_max_ms=wide
    )
    with RawClient(bootstrap) as client:
        for written in (ahead, behind):
            refused = client.produce(narrow, {0: written})[0]
            assert refused.error_code == Code.INVALID_TIMESTAMP
            assert client.produce(open_ended, {0: written})[0].error_code == Code.NONE
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    with pytest.raises(InvalidTimestampError):
        producer.send(narrow, b"x", timestamp_ms=now_ms + 2 * HOUR_MS).get(10)
    producer.close()


def test_deleted_records_are_gone_and_the_log_starts_after_them(
    bootstrap: str, make_topic: MakeTopic, admin: KafkaAdminClient
) -> None:
    topic = make_topic()
    with RawClient(bootstrap) as client:
        client.produce(topic, {0: batch([b"%d" % n for n in range(10)])})
        at = TopicPartition(topic, 0)
        admin.delete_records({at: 4})
        answered = client.fetch(topic, {0: 4})[0]
        assert (answered.log_start_offset, answered.high_watermark) == (4, 10)
        assert client.fetch(topic, {0: 3})[0].error_code == Code.OFFSET_OUT_OF_RANGE
    left = [record.value for record in read(bootstrap, topic, 6)]
    assert left == [b"%d" % number for number in range(4, 10)]
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    assert consumer.beginning_offsets([at]) == {at: 4}
    assert consumer.end_offsets([at]) == {at: 10}
    consumer.close()
    with pytest.raises(OffsetOutOfRangeError):
        admin.delete_records({at: 11})


def test_a_compacted_topic_takes_no_record_without_a_key(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic(cleanup_policy="compact")
    with RawClient(bootstrap) as client:
        assert client.produce(topic, {0: batch([b"x"])})[0].error_code == Code.INVALID_RECORD
        assert client.produce(topic, {0: batch([b"x"], key=b"k")})[0].error_code == Code.NONE


def test_a_double_of_an_idempotent_producer_is_stored_once(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    with RawClient(bootstrap) as client:
        given = client.ask(
            InitProducerIdRequest(
                transactional_id=None,
                transaction_timeout_ms=0,
                producer_id=-1,
                producer_epoch=-1,
            ),
            4,
        )
        assert given.error_code == Code.NONE
        who = given.producer_id

        def produce(sequence: int, *values: bytes) -> tuple[int, int]:
            written = batch(values, producer=(who, given.producer_epoch, sequence))
            answered = client.produce(topic, {0: written})[0]
            return answered.error_code, answered.base_offset

        assert produce(0, b"a", b"b") == (Code.NONE, 0)
        assert produce(2, b"c") == (Code.NONE, 2)
        assert produce(0, b"a", b"b") == (Code.NONE, 0)
        assert produce(4, b"e")[0] == Code.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert produce(3, b"d") == (Code.NONE, 3)
    assert [record.value for record in read(bootstrap, topic, 4)] == [b"a", b"b", b"c", b"d"]


async def test_a_transactional_producer_is_refused_at_once(embedded: local.LocalStack) -> None:
    options = {"bootstrap_servers": embedded.bootstrap, "transactional_id": "t"}
    producer = KafkaProducer(**options)
    with pytest.raises(KafkaError, match="InvalidRequest"):
        await asyncio.to_thread(producer.init_transactions)
    producer.close(timeout=1)
    with pytest.raises(errors.KafkaError, match="InvalidRequest"):
        await AIOKafkaProducer(**options).start()


def test_what_is_no_batch_is_refused_and_the_next_partition_takes_its_own(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic(partitions=3)
    good = batch([b"x"])
    bad = good[:-1] + bytes([good[-1] ^ 1])
    with RawClient(bootstrap) as client:
        answered = client.produce(topic, {0: bad, 1: good + good, 2: good})
        assert answered[0].error_code == Code.CORRUPT_MESSAGE
        assert answered[1].error_code == Code.INVALID_RECORD
        assert (answered[2].error_code, answered[2].base_offset) == (Code.NONE, 0)
        assert client.fetch(topic, {0: 0})[0].high_watermark == 0


@pytest.mark.parametrize("version", [3, 5, 8])
def test_unacknowledged_records_are_stored_and_not_answered(
    bootstrap: str, make_topic: MakeTopic, version: int
) -> None:
    topic = make_topic()
    with RawClient(bootstrap) as client:
        client.send(produce_request(topic, {0: batch([b"a"])}, acks=0), version)
        answered = client.produce(topic, {0: batch([b"b"])}, acks=1, version=version)[0]
        assert (answered.error_code, answered.base_offset) == (Code.NONE, 1)


def test_a_topic_that_is_not_there_is_named_so(bootstrap: str, make_topic: MakeTopic) -> None:
    topic = make_topic()
    unknown = Code.UNKNOWN_TOPIC_OR_PARTITION
    with RawClient(bootstrap) as client:
        assert client.produce("nothing", {0: batch([b"x"])})[0].error_code == unknown
        answered = client.produce(topic, {0: batch([b"x"]), 1: batch([b"x"])})
        assert [answered[index].error_code for index in (0, 1)] == [Code.NONE, unknown]
        assert client.fetch("nothing", {0: 0}, max_wait_ms=60_000)[0].error_code == unknown
        assert client.fetch(topic, {1: 0}, max_wait_ms=60_000)[1].error_code == unknown


def test_a_fetch_beyond_the_end_is_out_of_range(bootstrap: str, make_topic: MakeTopic) -> None:
    topic = make_topic()
    with RawClient(bootstrap) as client:
        answered = client.fetch(topic, {0: 1}, max_wait_ms=60_000)[0]
        assert answered.error_code == Code.OFFSET_OUT_OF_RANGE


def test_a_waiting_fetch_is_answered_by_the_append_that_it_waits_for(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic(partitions=2)
    with RawClient(bootstrap) as reader, RawClient(bootstrap) as writer:
        request = fetch_request(topic, {0: 0, 1: 0}, max_wait_ms=600_000)
        reader.send(request, 11)
        writer.produce(topic, {1: batch([b"x"])})
        # Its socket gives up long before the fetch would.
        answered = reader.fetched(request)
    assert [record.value for record in parsed(answered[1].records)] == [b"x"]
    assert not answered[0].records


def test_a_waiting_fetch_waits_for_as_many_bytes_as_it_wants(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    with RawClient(bootstrap) as reader, RawClient(bootstrap) as writer:
        request = fetch_request(topic, {0: 0}, max_wait_ms=600_000, min_bytes=5_000)
        reader.send(request, 11)
        for _ in range(3):
            writer.produce(topic, {0: batch([b"x" * 2_000])})
        assert len(parsed(reader.fetched(request)[0].records)) == 3


def test_a_fetch_without_anything_to_read_ends_after_its_time(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    with RawClient(bootstrap) as client:
        answered = client.fetch(topic, {0: 0}, max_wait_ms=50)[0]
    assert (answered.error_code, answered.high_watermark) == (Code.NONE, 0)
    assert not answered.records


def test_a_waiting_fetch_ends_when_its_topic_is_deleted(
    stack: Any, bootstrap: str, make_topic: MakeTopic, admin: KafkaAdminClient
) -> None:
    if stack.kind == "kafka":
        pytest.skip("Apache Kafka lets it wait until its time is up")
    topic = make_topic()
    with RawClient(bootstrap) as client:
        request = fetch_request(topic, {0: 0}, max_wait_ms=600_000)
        client.send(request, 11)
        admin.delete_topics([topic])
        answered = client.fetched(request)[0]
    assert answered.error_code == Code.UNKNOWN_TOPIC_OR_PARTITION


def test_the_first_batch_comes_whole_and_the_others_as_they_fit(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic(partitions=2)
    one = batch([b"x" * 1_000])
    with RawClient(bootstrap) as client:
        for _ in range(5):
            client.produce(topic, {0: one, 1: one})

        def counts(**limits: int) -> list[int]:
            answered = client.fetch(topic, {0: 0, 1: 0}, **limits)
            # Apache Kafka cuts the last batch where the limit is; a reader drops such a piece.
            return [len(parsed(answered[index].records or b"")) for index in (0, 1)]

        assert counts(max_bytes=10) == [1, 0]
        assert counts(partition_max_bytes=10) == [1, 0]
        assert counts(partition_max_bytes=2 * len(one) + 10) == [2, 2]
        assert counts(max_bytes=3 * len(one)) == [3, 0]
        assert counts(max_bytes=7 * len(one)) == [5, 2]


def test_a_reader_in_the_middle_of_a_batch_gets_it_whole(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    with RawClient(bootstrap) as client:
        client.produce(topic, {0: batch([b"a", b"b", b"c"])})
        client.produce(topic, {0: batch([b"d"])})
        records = parsed(client.fetch(topic, {0: 2})[0].records)
    assert [record.offset for record in records] == [0, 1, 2, 3]


def test_what_many_write_at_once_is_all_there_in_the_order_of_each(
    bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = make_topic()

    def produce(name: bytes) -> None:
        write(bootstrap, topic, *(b"%s %d" % (name, number) for number in range(200)))

    threads = [threading.Thread(target=produce, args=(name,)) for name in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    values = [record.value.split() for record in read(bootstrap, topic, 600)]
    for thread in threads:
        thread.join()
    for name in (b"a", b"b", b"c"):
        assert [int(number) for who, number in values if who == name] == list(range(200))
