"""The topics of a platform: which there must be, with which settings; creating and checking them.

The input topics have one partition count for life, because a record's partition is a hash of its
request modulo that count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from tenuto.features.events import Event
from tenuto.snapshot.labels import SampleStream
from tenuto.streams.connection import KafkaConnection
from tenuto.streams.topic_names import TopicNames

Clock = Literal["broker", "driver"]
"""Who stamps records: the broker (LogAppendTime), or the driver of a replay (CreateTime)."""

_FOREVER = str(2**63 - 1)
OVERHEAD_BYTES = 64 * 1024


class UnavailableError(RuntimeError):
    """A server did not answer: which address."""


@dataclass(frozen=True)
class Topic:
    """One topic as it must be.

    Attributes:
        name: on the broker.
        partitions: its count.
        settings: broker settings that are created and checked.
        checked: settings whose value matters to correctness, by name; a larger size is fine.
    """

    name: str
    partitions: int
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Largest records, in bytes."""

    event_bytes: int
    snapshot_bytes: int

    @property
    def derived_bytes(self) -> int:
        """What ``samples`` and ``dead-letters`` allow: a legal input must never be too large."""
        return 2 * max(self.event_bytes, self.snapshot_bytes) + OVERHEAD_BYTES


def plan(
    names: TopicNames,
    events: Iterable[Event],
    samples: Iterable[SampleStream],
    *,
    partitions: int,
    sizes: Sizes,
    clock: Clock = "broker",
    retention_ms: int = 7 * 86_400_000,
) -> list[Topic]:
    """Every topic of a platform."""
    stamped = {"message.timestamp.type": "LogAppendTime", "retention.ms": str(retention_ms)}
    if clock == "driver":
        # A broker otherwise refuses stamps an hour ahead, and deletes old ones at once.
        stamped = {
            "message.timestamp.type": "CreateTime",
            "message.timestamp.before.max.ms": _FOREVER,
            "message.timestamp.after.max.ms": _FOREVER,
            "retention.ms": "-1",
        }
    created = {**stamped, "message.timestamp.type": "CreateTime"}
    topics = [
        Topic(name, partitions, stamped | _size(sizes.event_bytes))
        for name in names.events(events).values()
    ]
    topics.append(Topic(names.snapshots, partitions, stamped | _size(sizes.snapshot_bytes)))
    topics += [
        Topic(names.of(stream.topic), partitions, created | _size(sizes.derived_bytes))
        for stream in samples
    ]
    topics.append(Topic(names.checkpoints, 1, {"cleanup.policy": "compact"}))
    topics.append(Topic(names.dead_letters, 1, created | _size(sizes.derived_bytes)))
    return topics


class Topics:
    """The topics on one broker.

    Args:
        connection: to Kafka.
        timeout_s: how long the broker may take to answer at first.

    Raises:
        UnavailableError: it does not answer.
    """

    def __init__(self, connection: KafkaConnection, *, timeout_s: float = 5.0) -> None:
        try:
            self._admin = KafkaAdminClient(
                **connection.kafka_python(), bootstrap_timeout_ms=int(timeout_s * 1000)
            )
        except KafkaError as error:
            raise UnavailableError(f"kafka at {connection.bootstrap} does not answer") from error

    def close(self) -> None:
        """Disconnect."""
        self._admin.close()

    def __enter__(self) -> Topics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def create(self, topics: Sequence[Topic], *, replication_factor: int = -1) -> list[str]:
        """Create those that are not there; returns their names."""
        there = set(self._admin.list_topics())
        missing = [topic for topic in topics if topic.name not in there]
        for topic in missing:
            wanted = {
                topic.name: {
                    "num_partitions": topic.partitions,
                    "replication_factor": replication_factor,
                    "configs": topic.settings,
                }
            }
            try:
                self._admin.create_topics(wanted, wait_for_metadata=True)
            except TopicAlreadyExistsError:
                # Somebody else was faster; check() looks at what it is.
                continue
        return [topic.name for topic in missing]

    def check(self, topics: Sequence[Topic]) -> list[str]:
        """What is wrong with the topics, a line each; what a broker cannot tell is not checked."""
        problems: list[str] = []
        there = {t["name"]: t for t in self._describe([topic.name for topic in topics])}
        for topic in topics:
            found = there.get(topic.name)
            if found is None or found.get("error_code"):
                problems.append(f"{topic.name}: does not exist: run `tenuto topics`")
                continue
            count = len(found["partitions"])
            if count != topic.partitions:
                problems.append(
                    f"{topic.name}: has {count} partitions, not {topic.partitions}: the count is "
                    "for life; set kafka.partitions to it, or begin anew in another namespace"
                )
            problems += self._check_settings(topic)
        return problems

    def incarnation(self, topic: str) -> bytes:
        """16 bytes that name this life of a topic: its UUID.

        Raises:
            UnavailableError: the broker does not know the topic.
        """
        found = self._describe([topic])
        if not found or found[0].get("error_code"):
            raise UnavailableError(f"{topic}: does not exist: run `tenuto topics`")
        return _topic_id(found[0]["topic_id"])

    def delete(self, topics: Sequence[Topic]) -> None:
        """Delete topics that are there."""
        there = set(self._admin.list_topics())
        names = [topic.name for topic in topics if topic.name in there]
        if names:
            self._admin.delete_topics(names)

    def _describe(self, names: Sequence[str]) -> list[dict[str, Any]]:
        described: list[dict[str, Any]] = self._admin.describe_topics(list(names))
        return described

    def _check_settings(self, topic: Topic) -> list[str]:
        from kafka.admin import ConfigResource, ConfigResourceType

        resource = ConfigResource(ConfigResourceType.TOPIC, topic.name)
        found = self._admin.describe_configs([resource], config_filter="all")
        settings = found.get("topic", {}).get(topic.name, {})
        problems = []
        for name, wanted in topic.settings.items():
            if name not in settings or name == "retention.ms":
                continue
            value = str(settings[name]["value"])
            too_small = name == "max.message.bytes" and int(value) < int(wanted)
            if too_small or (name != "max.message.bytes" and value != wanted):
                problems.append(f"{topic.name}: {name} is {value}: must be {wanted}")
        return problems


def _size(record_bytes: int) -> dict[str, str]:
    return {"max.message.bytes": str(record_bytes + OVERHEAD_BYTES)}


def _topic_id(text: str) -> bytes:
    """Kafka writes a topic's UUID as hex with dashes, or as 22 characters of base64."""
    import base64
    import uuid

    try:
        return uuid.UUID(str(text)).bytes
    except ValueError:
        return base64.urlsafe_b64decode(str(text) + "==")
