"""Topics on real brokers: creation, what a check finds, lives, deletion."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from tenuto import local
from tenuto.presets import video
from tenuto.streams.connection import KafkaConnection
from tenuto.streams.reach import UnavailableError
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import (
    Clock,
    Findings,
    Sizes,
    Topic,
    TopicError,
    Topics,
    plan,
)

DAY_MS = 86_400_000
SIZES = Sizes(event_bytes=65_536, snapshot_bytes=1 << 21)


def planned(namespace: str = "", clock: Clock = "broker", partitions: int = 2) -> list[Topic]:
    names = TopicNames(namespace)
    return plan(
        names,
        video.app.events,
        video.app.samples,
        partitions=partitions,
        sizes=SIZES,
        clock=clock,
        retention_ms=8 * DAY_MS,
    )


def by_name(topics: list[Topic]) -> dict[str, Topic]:
    return {topic.name: topic for topic in topics}


def test_inputs_and_samples_have_one_partition_count_and_the_others_one_partition() -> None:
    counts = {topic.name: topic.partitions for topic in planned("ns", partitions=6)}
    inputs = ["impressions", "clicks", "plays", "likes", "snapshots", "samples"]
    assert counts == {f"ns.{name}": 6 for name in inputs} | {
        "ns.checkpoints": 1,
        "ns.dead-letters": 1,
    }


def test_whatever_an_input_takes_fits_twice_into_samples_and_dead_letters() -> None:
    topics = by_name(planned())
    most = max(int(topics[name].settings["max.message.bytes"]) for name in ("clicks", "snapshots"))
    for name in ("samples", "dead-letters"):
        assert int(topics[name].settings["max.message.bytes"]) >= 2 * (most - 65_536) + 65_536


def test_inputs_take_records_that_are_larger_than_what_counts() -> None:
    clicks = by_name(planned())["clicks"]
    assert int(clicks.settings["max.message.bytes"]) > 1_000_000 > SIZES.event_bytes


def test_the_broker_stamps_live_inputs_and_the_driver_those_of_a_replay() -> None:
    live, replay = by_name(planned()), by_name(planned(clock="driver"))
    assert live["clicks"].settings["message.timestamp.type"] == "LogAppendTime"
    assert replay["clicks"].settings["message.timestamp.type"] == "CreateTime"
    assert replay["clicks"].settings["retention.ms"] == "-1"


def test_a_broker_that_is_not_there_is_named_within_the_given_time() -> None:
    with pytest.raises(UnavailableError, match=r"kafka at 127\.0\.0\.1:1 does not answer"):
        Topics(KafkaConnection(bootstrap="127.0.0.1:1"), timeout_s=0.5)


def test_a_server_that_accepts_but_is_no_kafka_is_asked_about_its_protocol() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        connection = KafkaConnection(bootstrap=f"127.0.0.1:{deaf.getsockname()[1]}")
        with pytest.raises(UnavailableError, match="over PLAINTEXT: is that its protocol"):
            Topics(connection, timeout_s=0.5)


@pytest.fixture
def topics(stack: local.LocalStack) -> Iterator[Topics]:
    with Topics(KafkaConnection(bootstrap=stack.bootstrap)) as connected:
        yield connected


@pytest.fixture
def namespace() -> str:
    return f"n{uuid.uuid4().hex[:8]}"


@pytest.mark.stack
def test_topics_are_created_once_and_are_then_as_they_must_be(
    topics: Topics, namespace: str
) -> None:
    wanted = planned(namespace)
    assert topics.create(wanted) == [topic.name for topic in wanted]
    assert topics.create(wanted) == []
    assert topics.check(wanted).problems == []


@pytest.mark.stack
def test_a_topic_that_is_not_there_is_a_problem(topics: Topics, namespace: str) -> None:
    wanted = planned(namespace)
    topics.create(wanted[1:])
    (problem,) = topics.check(wanted).problems
    assert problem == f"{wanted[0].name}: does not exist: run `tenuto topics`"


@pytest.mark.stack
def test_another_partition_count_is_a_problem_for_life(topics: Topics, namespace: str) -> None:
    topics.create([Topic(f"{namespace}.clicks", 3)])
    (problem,) = topics.check([Topic(f"{namespace}.clicks", 2)]).problems
    assert problem.startswith(f"{namespace}.clicks: has 3 partitions, not 2: the count is for life")


@pytest.mark.stack
def test_each_life_of_a_topic_has_its_own_incarnation(topics: Topics, namespace: str) -> None:
    topic = Topic(f"{namespace}.clicks", 2)
    topics.create([topic])
    first = topics.incarnation(topic.name)
    assert len(first) == 16
    assert topics.incarnation(topic.name) == first
    topics.delete([topic])
    with pytest.raises(TopicError, match=rf"{namespace}\.clicks: does not exist"):
        topics.incarnation(topic.name)
    topics.create([topic])
    assert topics.incarnation(topic.name) not in (first, bytes(16))


@pytest.mark.stack
def test_deleting_leaves_other_topics_alone_and_may_be_repeated(
    topics: Topics, namespace: str
) -> None:
    mine, other = planned(namespace), planned(f"{namespace}x")
    topics.create(mine)
    topics.create(other)
    topics.delete(mine)
    topics.delete(mine)
    assert len(topics.check(mine).problems) == len(mine)
    assert topics.check(other).problems == []


@pytest.mark.stack
@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("message.timestamp.type", "CreateTime", "must be LogAppendTime"),
        ("max.message.bytes", "1000", "must be at least 1114112"),
        ("retention.ms", "1000", "must be at least 691200000"),
        ("cleanup.policy", "compact", "must be delete"),
    ],
)
def test_a_setting_that_would_lose_or_bend_data_is_a_problem(
    topics: Topics, namespace: str, setting: str, value: str, rule: str
) -> None:
    clicks = by_name(planned(namespace))[f"{namespace}.clicks"]
    topics.create([replace(clicks, settings={**clicks.settings, setting: value})])
    (problem,) = topics.check([clicks]).problems
    assert problem.startswith(f"{namespace}.clicks: {setting} is {value}: {rule} (kafka-configs ")


@pytest.mark.stack
@pytest.mark.parametrize(
    ("setting", "value"), [("max.message.bytes", "9000000"), ("retention.ms", "-1")]
)
def test_a_topic_may_allow_more_and_keep_longer(
    topics: Topics, namespace: str, setting: str, value: str
) -> None:
    clicks = by_name(planned(namespace))[f"{namespace}.clicks"]
    topics.create([replace(clicks, settings={**clicks.settings, setting: value})])
    assert topics.check([clicks]) == Findings()


@pytest.mark.stack
def test_a_topic_that_the_broker_refuses_is_named_with_its_reason(
    topics: Topics, namespace: str
) -> None:
    with pytest.raises(TopicError) as caught:
        topics.create([Topic(f"{namespace}.clicks", 1)], replication_factor=3)
    message = str(caught.value)
    assert message.startswith(f"{namespace}.clicks: not created: ")
    assert "replication factor" in message
    assert "\n" not in message
    assert "CreateTopicsRequest" not in message


@pytest.mark.stack
def test_stamps_of_the_past_and_the_future_stand_on_topics_of_a_replay(
    topics: Topics, stack: local.LocalStack, namespace: str
) -> None:
    clicks = by_name(planned(namespace, clock="driver"))[f"{namespace}.clicks"]
    topics.create([clicks])
    assert topics.check([clicks]) == Findings()
    at = TopicPartition(clicks.name, 0)
    past_ms, future_ms = 1_000_000_000_000, 4_000_000_000_000
    producer = KafkaProducer(bootstrap_servers=stack.bootstrap)
    try:
        for stamp_ms in (past_ms, future_ms):
            producer.send(at.topic, b"x", partition=0, timestamp_ms=stamp_ms).get(10)
    finally:
        producer.close()
    consumer = KafkaConsumer(bootstrap_servers=stack.bootstrap, consumer_timeout_ms=10_000)
    try:
        consumer.assign([at])
        consumer.seek_to_beginning()
        assert [next(consumer).timestamp for _ in range(2)] == [past_ms, future_ms]
    finally:
        consumer.close()


@pytest.mark.stack
def test_the_admin_client_leaves_topics_of_others_alone(
    topics: Topics, stack: local.LocalStack, namespace: str
) -> None:
    with KafkaAdminClient(bootstrap_servers=stack.bootstrap) as admin:
        admin.create_topics({f"{namespace}.mine": {"num_partitions": 1, "replication_factor": 1}})
    topics.create(planned(namespace))
    topics.delete(planned(namespace))
    with KafkaAdminClient(bootstrap_servers=stack.bootstrap) as admin:
        assert f"{namespace}.mine" in admin.list_topics()
