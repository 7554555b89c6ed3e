"""The topics of a platform: which there must be, with which settings; creating and checking them.

The input topics have one partition count for life, because a record's partition is a hash of its
request modulo that count.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    TopicAlreadyExistsError,
    UnsupportedVersionError,
)

from tenuto.features.events import Event
from tenuto.snapshot.labels import SampleStream
from tenuto.snapshot.topic_life import life_of
from tenuto.streams.connection import KafkaConnection
from tenuto.streams.reach import other_protocol, reach
from tenuto.streams.retention import Retention
from tenuto.streams.topic_names import TopicNames

Clock = Literal["broker", "driver"]
"""Who stamps records: the broker (LogAppendTime), or the driver of a replay (CreateTime)."""

_FOREVER = str(2**63 - 1)
OVERHEAD_BYTES = 64 * 1024
# Input topics take at least this, whatever counts: a record that is refused for its size can be a
# dead letter then, and a foreign producer's batch, which is what the broker measures, fits.
_LEAST_BYTES = 1 << 20
# Metadata of creations and deletions spreads in well under a second, on a busy machine in some.
_SETTLE_S = 15.0


class TopicError(RuntimeError):
    """A topic that is not there, or that the broker does not make: which, and the mend."""


@dataclass(frozen=True)
class Topic:
    """One topic as it must be.

    Attributes:
        name: on the broker.
        partitions: its count.
        settings: of the topic on the broker; an existing one may keep more, and longer.
    """

    name: str
    partitions: int
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """What a check found, a line each.

    Attributes:
        problems: what is wrong, and what would be right.
        unchecked: what the broker does not tell.
    """

    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Largest records that count, in bytes; the topics take larger ones."""

    event_bytes: int
    snapshot_bytes: int

    @property
    def derived_bytes(self) -> int:
        """What ``samples`` and ``dead-letters`` allow: a legal input must never be too large."""
        return 2 * max(self.event_bytes, self.snapshot_bytes, _LEAST_BYTES) + OVERHEAD_BYTES


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
    # A compacted topic would lose all but the last record of each request.
    kept = {"cleanup.policy": "delete", "retention.ms": str(retention_ms)}
    stamped = {**kept, "message.timestamp.type": "LogAppendTime"}
    if clock == "driver":
        # A broker otherwise refuses stamps an hour ahead, and deletes old ones at once.
        stamped = {
            "cleanup.policy": "delete",
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
        timeout_s: how long each of its servers may take to accept a connection, and all of them
            to answer.

    Raises:
        CredentialsError: it refuses the user, the password or the mechanism.
        UnavailableError: it does not answer.
    """

    def __init__(self, connection: KafkaConnection, *, timeout_s: float = 5.0) -> None:
        # The admin client would leave its thread behind.
        reach(connection, timeout_s)
        try:
            self._admin = KafkaAdminClient(
                **connection.kafka_python(), bootstrap_timeout_ms=int(timeout_s * 1000)
            )
        except KafkaError as error:
            raise other_protocol(connection) from error

    def close(self) -> None:
        """Disconnect."""
        self._admin.close()

    def __enter__(self) -> Topics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def create(self, topics: Sequence[Topic], *, replication_factor: int = -1) -> list[str]:
        """Create those that are not there and wait until they can be used; returns their names.

        Raises:
            TopicError: the broker refuses one, or it is not usable in time.
        """
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
                self._admin.create_topics(wanted)
            except TopicAlreadyExistsError:
                # Somebody else was faster; check() looks at what it is.
                continue
            except KafkaError as error:
                raise TopicError(f"{topic.name}: not created: {_reason(error)}") from error
        if missing:
            try:
                self._admin.wait_for_topics(
                    [topic.name for topic in missing], timeout_ms=_SETTLE_S * 1_000
                )
            except KafkaError as error:
                raise TopicError(f"created, but {error}") from error
        return [topic.name for topic in missing]

    def check(self, topics: Sequence[Topic]) -> Findings:
        """Compare the topics with how they must be; changes nothing."""
        findings = Findings()
        problems = findings.problems
        there = {t["name"]: t for t in self._describe([topic.name for topic in topics])}
        present: list[Topic] = []
        for topic in topics:
            found = there.get(topic.name)
            if found is None or found.get("error_code"):
                problems.append(f"{topic.name}: does not exist: run `tenuto topics`")
                continue
            present.append(topic)
            count = len(found["partitions"])
            if count != topic.partitions:
                problems.append(
                    f"{topic.name}: has {count} partitions, not {topic.partitions}: the count is "
                    "for life; set kafka.partitions to it, or begin anew in another namespace"
                )
        settings = self._settings([topic.name for topic in present])
        for topic in present:
            _compare(topic, settings.get(topic.name, {}), findings)
        return findings

    def incarnation(self, topic: str) -> bytes:
        """16 bytes that name this life of a topic: its UUID.

        Raises:
            TopicError: the broker does not know the topic, or does not give topics a UUID.
        """
        found = self._describe([topic])
        if not found or found[0].get("error_code"):
            raise TopicError(f"{topic}: does not exist: run `tenuto topics`")
        life = life_of(found[0])
        if life is None:
            raise TopicError(
                f"{topic}: the broker gives topics no id: use Apache Kafka 2.8 or newer"
            )
        return life

    def retention(self, names: Sequence[str]) -> list[Retention]:
        """What the broker keeps of each of these topics, as far as it says."""
        found = self._settings(names)
        kept = []
        for name in names:
            settings = found.get(name, {})
            ms = settings.get("retention.ms")
            size = int(settings.get("retention.bytes", -1))
            kept.append(Retention(name, None if ms is None else int(ms), size))
        return kept

    def delete(self, topics: Sequence[Topic]) -> None:
        """Delete those that are there and wait until they are gone.

        Raises:
            TopicError: the broker refuses, or one is still there after a while.
        """
        wanted = {topic.name for topic in topics}
        names = sorted(wanted & set(self._admin.list_topics()))
        if not names:
            return
        try:
            self._admin.delete_topics(names)
        except KafkaError as error:
            raise TopicError(f"{', '.join(names)}: not deleted: {_reason(error)}") from error
        give_up_s = time.monotonic() + _SETTLE_S
        while left := wanted & set(self._admin.list_topics()):
            if time.monotonic() > give_up_s:
                raise TopicError(f"{', '.join(sorted(left))}: deleted, but still there")
            time.sleep(0.1)

    def _describe(self, names: Sequence[str]) -> list[dict[str, Any]]:
        described: list[dict[str, Any]] = self._admin.describe_topics(list(names))
        return described

    def _settings(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Settings by topic, as far as the broker tells them."""
        if not names:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        try:
            found = self._admin.describe_configs(resources, config_filter="all")
        except (IncompatibleBrokerVersion, UnsupportedVersionError):
            return {}
        return {
            name: {key: str(setting["value"]) for key, setting in settings.items()}
            for name, settings in found.get("topic", {}).items()
        }


def _compare(topic: Topic, found: dict[str, str], findings: Findings) -> None:
    if not found:
        findings.unchecked.append(f"{topic.name}: the broker does not tell its settings")
        return
    for name, wanted in topic.settings.items():
        value = found.get(name)
        if value is None:
            findings.unchecked.append(f"{topic.name}: the broker does not tell {name}")
        elif not _suffices(name, value, wanted):
            findings.problems.append(
                f"{topic.name}: {name} is {value}: must be {_at_least(name)}{wanted} "
                f"(kafka-configs --alter --topic {topic.name} --add-config {name}={wanted})"
            )


def _suffices(name: str, value: str, wanted: str) -> bool:
    if not _at_least(name):
        return value == wanted
    # -1 keeps for ever.
    return int(value) == -1 if wanted == "-1" else int(value) == -1 or int(value) >= int(wanted)


def _at_least(name: str) -> str:
    return "" if name in ("message.timestamp.type", "cleanup.policy") else "at least "


def _size(record_bytes: int) -> dict[str, str]:
    return {"max.message.bytes": str(max(record_bytes, _LEAST_BYTES) + OVERHEAD_BYTES)}


def _reason(error: KafkaError) -> str:
    """The broker's own words; the error's text is the whole request and response."""
    found = re.search(r"error_code=[1-9]\d*, error_message=(?:'([^']*)'|\"([^\"]*)\")", str(error))
    return next(filter(None, found.groups()), "") if found else type(error).__name__
