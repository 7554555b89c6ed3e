"""Ids of idempotent producers, over a start of the broker that forgets everything."""

from __future__ import annotations

from kafka import KafkaConsumer, TopicPartition

from tenuto import local
from tenuto.settings import KafkaSettings
from tenuto.streams.outbox import Outbox
from tenuto.streams.topics import Topic, Topics


def test_a_producer_that_outlives_a_start_takes_no_record_from_one_that_comes_after_it() -> None:
    with local.start("embedded", redis=False) as stack:
        kafka = KafkaSettings(bootstrap=stack.bootstrap)

        def create() -> None:
            with Topics(kafka) as admin:
                admin.create([Topic("ids", 1)])

        def send(outbox: Outbox, value: bytes) -> None:
            outbox.send("ids", value, partition=0)
            outbox.flush(30.0)

        create()
        older, younger = Outbox(kafka.kafka_python()), Outbox(kafka.kafka_python())
        try:
            send(older, b"before")
            stack.kill_broker()
            stack.restart_broker()
            create()
            send(younger, b"0")
            send(older, b"1")
            # With the same id it would be the older one's second record again.
            send(younger, b"2")
        finally:
            older.close()
            younger.close()
        assert _values(stack.bootstrap) == [b"0", b"1", b"2"]


def _values(bootstrap: str) -> list[bytes]:
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False,
        auto_offset_reset="earliest",
    )  # fmt: skip
    try:
        place = TopicPartition("ids", 0)
        consumer.assign([place])
        end, values = consumer.end_offsets([place])[place], []
        consumer.seek(place, 0)
        while consumer.position(place) < end:
            for found in consumer.poll(timeout_ms=200).values():
                values += [record.value for record in found]
        return values
    finally:
        consumer.close()
