"""Announcements over a real broker: each once, in order, whoever died in between."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoint_files import EVERY_MS, H_MS, MODEL, NO_WAIT, T0_MS, checkpoint
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from ranker_files import model_checkpoint

from tenuto import local
from tenuto.streams.connection import KafkaConnection
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import Sizes, Topics, plan
from tenuto.trainer.checkpoints.announcer import AnnounceError, TopicAnnouncer
from tenuto.trainer.checkpoints.errors import PublishError
from tenuto.trainer.checkpoints.feed import CheckpointFeed
from tenuto.trainer.checkpoints.manifest import decode_announcement, encode
from tenuto.trainer.checkpoints.reader import CheckpointReader
from tenuto.trainer.checkpoints.writer import Publisher

pytestmark = pytest.mark.stack


@pytest.fixture
def topic(stack: local.LocalStack) -> str:
    """The topic ``checkpoints`` of a namespace of its own, as the platform plans it."""
    names = TopicNames(uuid.uuid4().hex[:8])
    planned = plan(names, [], [], partitions=1, sizes=Sizes(65_536, 1 << 20))
    with Topics(KafkaConnection(bootstrap=stack.bootstrap)) as topics:
        topics.create([one for one in planned if one.name == names.checkpoints])
    return names.checkpoints


@pytest.fixture
def announcer(stack: local.LocalStack, topic: str) -> Iterator[TopicAnnouncer]:
    made = announcer_of(stack, topic)
    yield made
    made.close()


def announcer_of(stack: local.LocalStack, topic: str) -> TopicAnnouncer:
    return TopicAnnouncer(topic, {"bootstrap_servers": stack.bootstrap})


def publisher(store: Path, *announcers: TopicAnnouncer) -> Publisher:
    return Publisher(str(store), MODEL, announcers=announcers, retry=NO_WAIT)


def feed_of(stack: local.LocalStack, topic: str, store: Path) -> CheckpointFeed:
    url = f"kafka://{stack.bootstrap}/{topic}"
    return CheckpointFeed(url, model=MODEL, store=str(store), follow=False)


def poll_until(feed: CheckpointFeed, version: str) -> bool:
    give_up_s = time.monotonic() + 30
    while feed.version != version and time.monotonic() < give_up_s:
        feed.poll()
    return feed.version == version


def records(stack: local.LocalStack, topic: str) -> list[tuple[str, int, str]]:
    """Key, sequence and version of every record."""
    consumer = KafkaConsumer(bootstrap_servers=stack.bootstrap, auto_offset_reset="earliest")
    tp = TopicPartition(topic, 0)
    consumer.assign([tp])
    consumer.seek_to_beginning(tp)
    end = consumer.end_offsets([tp])[tp]
    found = []
    while consumer.position(tp) < end:
        for record in consumer.poll(timeout_ms=200).get(tp, []):
            said = decode_announcement(record.value, "")
            found.append((record.key.decode(), said.sequence, said.version[-2:]))
    consumer.close()
    return found


def test_a_feed_follows_a_topic(
    stack: local.LocalStack, topic: str, announcer: TopicAnnouncer, tmp_path: Path
) -> None:
    trainer = publisher(tmp_path, announcer)
    with feed_of(stack, topic, tmp_path) as feed:
        assert not feed.poll()
        assert feed.refused is None
        for number in (1, 2):
            trainer.publish(model_checkpoint(number))
            assert poll_until(feed, model_checkpoint(number).version)
        trainer.announce(T0_MS + 3 * EVERY_MS, H_MS)
        trainer.roll_back(model_checkpoint(1).version)
        assert poll_until(feed, model_checkpoint(1).version)
        assert feed.announced_through_ms == T0_MS + 3 * EVERY_MS
    said = [(MODEL, 1, "01"), (MODEL, 2, "02"), (MODEL, 3, "02"), (MODEL, 4, "01")]
    assert records(stack, topic) == said


def test_what_a_dead_trainer_had_not_told_the_topic_is_told_once_by_the_next(
    stack: local.LocalStack, topic: str, announcer: TopicAnnouncer, tmp_path: Path
) -> None:
    publisher(tmp_path, announcer).publish(checkpoint(1))
    died = publisher(tmp_path)
    died.publish(checkpoint(2))
    died.publish(checkpoint(3))
    again = announcer_of(stack, topic)
    newest = CheckpointReader(str(tmp_path), MODEL).newest()
    assert newest is not None
    trainer = publisher(tmp_path, again)
    trainer.recover(newest.manifest)
    trainer.recover(newest.manifest)
    again.close()
    assert records(stack, topic) == [(MODEL, 1, "01"), (MODEL, 2, "02"), (MODEL, 3, "03")]


def test_models_share_a_topic_and_records_that_say_nothing_are_passed_over(
    stack: local.LocalStack, topic: str, announcer: TopicAnnouncer, tmp_path: Path
) -> None:
    producer = KafkaProducer(bootstrap_servers=stack.bootstrap)
    producer.send(topic, b"not JSON", MODEL.encode()).get(10)
    producer.send(topic, None, MODEL.encode()).get(10)
    producer.close()
    Publisher(str(tmp_path), "music", announcers=[announcer]).publish(model_checkpoint(5))
    publisher(tmp_path, announcer).publish(model_checkpoint(1))
    with feed_of(stack, topic, tmp_path) as feed:
        assert poll_until(feed, model_checkpoint(1).version)


def test_a_repetition_by_a_publisher_that_was_replaced_changes_nothing(
    stack: local.LocalStack, topic: str, announcer: TopicAnnouncer, tmp_path: Path
) -> None:
    trainer = publisher(tmp_path, announcer)
    first = trainer.publish(model_checkpoint(1))
    trainer.publish(model_checkpoint(2))
    zombie = KafkaProducer(bootstrap_servers=stack.bootstrap)
    zombie.send(topic, encode(first), MODEL.encode()).get(10)
    zombie.close()
    with feed_of(stack, topic, tmp_path) as feed:
        assert poll_until(feed, model_checkpoint(2).version)
        for _ in range(5):
            feed.poll()
        assert feed.version == model_checkpoint(2).version


def test_a_topic_that_is_not_there_is_named(stack: local.LocalStack, tmp_path: Path) -> None:
    feed = feed_of(stack, f"none-{uuid.uuid4().hex[:8]}", tmp_path)
    feed.poll()
    assert feed.refused is not None
    assert "tenuto topics" in feed.refused.reason


def test_a_broker_that_is_gone_is_tried_a_bounded_number_of_times_and_the_store_holds(
    tmp_path: Path,
) -> None:
    failures: list[Exception] = []
    nobody = TopicAnnouncer("checkpoints", {"bootstrap_servers": "127.0.0.1:1"}, timeout_s=0.3)
    trainer = Publisher(
        str(tmp_path), MODEL, announcers=[nobody], retry=NO_WAIT, on_failure=failures.append
    )
    with pytest.raises(PublishError, match=r"topic checkpoints.*tried 5 times"):
        trainer.publish(checkpoint(1))
    assert len(failures) == 5
    assert all(isinstance(failure, AnnounceError) for failure in failures)
    assert [v[-1] for v in CheckpointReader(str(tmp_path), MODEL).versions()] == ["1"]
