"""The topics of the broker, each with an id that names this life of it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping

from tenuto.local.broker.errors import Code, RefusedError
from tenuto.local.broker.partition import Partition
from tenuto.local.broker.topic_settings import Effective, check

MAX_PARTITIONS = 10_000
"""Of one topic, and ten times as many of all: each costs memory before it holds a record."""
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


class Topic:
    """A topic.

    Attributes:
        id: new for each creation.
        settings: those that it was given, checked; the others have their defaults.
    """

    def __init__(self, name: str, partitions: int, settings: Mapping[str, str]) -> None:
        self.name = name
        self.id = uuid.uuid4()
        self.settings = dict(settings)
        effective = Effective.of(settings)
        self.partitions = [Partition(effective) for _ in range(partitions)]

    def grow(self, partitions: int, *, validate_only: bool = False) -> None:
        """Have so many partitions.

        Raises:
            RefusedError: it has them already.
        """
        if partitions <= len(self.partitions):
            raise RefusedError(
                Code.INVALID_PARTITIONS,
                f"The topic has {len(self.partitions)} partitions: {partitions} is not an increase",
            )
        if partitions > MAX_PARTITIONS:
            raise RefusedError(
                Code.INVALID_PARTITIONS, f"A topic has at most {MAX_PARTITIONS} partitions here."
            )
        if not validate_only:
            effective = Effective.of(self.settings)
            added = partitions - len(self.partitions)
            self.partitions += [Partition(effective) for _ in range(added)]

    def configure(self, settings: Mapping[str, str]) -> None:
        """Replace its own settings, which have been checked; they hold from the next batch on."""
        self.settings = dict(settings)
        effective = Effective.of(settings)
        for partition in self.partitions:
            partition.settings = effective


class Topics:
    """All topics.

    Args:
        partitions_default: of a topic that is created without a number.
    """

    def __init__(self, partitions_default: int = 1) -> None:
        self.partitions_default = partitions_default
        self._by_name: dict[str, Topic] = {}

    def __iter__(self) -> Iterator[Topic]:
        return iter(sorted(self._by_name.values(), key=lambda topic: topic.name))

    def get(self, name: str) -> Topic | None:
        """The topic of that name."""
        return self._by_name.get(name)

    def find(self, topic_id: uuid.UUID) -> Topic | None:
        """The topic of that id."""
        return next((topic for topic in self if topic.id == topic_id), None)

    def partition(self, name: str, index: int) -> Partition:
        """A partition.

        Raises:
            RefusedError: there is none.
        """
        topic = self._by_name.get(name)
        if topic is None or not 0 <= index < len(topic.partitions):
            raise RefusedError(
                Code.UNKNOWN_TOPIC_OR_PARTITION, "This server does not host this topic-partition."
            )
        return topic.partitions[index]

    def create(
        self,
        name: str,
        partitions: int,
        replication_factor: int,
        settings: Mapping[str, str | None],
        *,
        validate_only: bool = False,
    ) -> Topic:
        """A new topic; -1 partitions or replicas are the default's.

        Raises:
            RefusedError: as Kafka refuses it on one broker.
        """
        self._check_name(name)
        if partitions != -1 and partitions < 1:
            raise RefusedError(Code.INVALID_PARTITIONS, "Number of partitions must be at least 1.")
        if replication_factor not in (-1, 1):
            raise RefusedError(
                Code.INVALID_REPLICATION_FACTOR,
                f"Unable to replicate the partition {replication_factor} time(s): the target "
                f"replication factor of {replication_factor} cannot be reached because only 1 "
                "broker(s) are registered.",
            )
        count = self.partitions_default if partitions == -1 else partitions
        there = sum(len(topic.partitions) for topic in self._by_name.values())
        if count > MAX_PARTITIONS or there + count > 10 * MAX_PARTITIONS:
            raise RefusedError(
                Code.INVALID_PARTITIONS,
                f"A topic has at most {MAX_PARTITIONS} partitions here, and all together "
                f"{10 * MAX_PARTITIONS}.",
            )
        topic = Topic(name, count, check(settings))
        if not validate_only:
            self._by_name[name] = topic
        return topic

    def delete(self, name: str) -> None:
        """Forget a topic and wake whoever waits for its records.

        Raises:
            RefusedError: there is none.
        """
        topic = self._by_name.pop(name, None)
        if topic is None:
            raise RefusedError(Code.UNKNOWN_TOPIC_OR_PARTITION, "The topic does not exist.")
        for partition in topic.partitions:
            partition.deleted = True
            partition.notify()

    def retain(self, now_ms: int) -> None:
        """Let go of what the topics' settings no longer keep."""
        for topic in self._by_name.values():
            for partition in topic.partitions:
                partition.retain(now_ms)

    def _check_name(self, name: str) -> None:
        if not is_valid_name(name):
            raise RefusedError(
                Code.INVALID_TOPIC,
                f"Topic name is invalid: {name!r} must be 1 to 249 of a-z, A-Z, 0-9, '.', '_' and "
                "'-', and not '.' or '..'",
            )
        if name in self._by_name:
            raise RefusedError(Code.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")
        # Kafka refuses these, because its metrics write '.' as '_'.
        same = [other for other in self._by_name if _collides(name, other)]
        if same:
            raise RefusedError(
                Code.INVALID_TOPIC, f"Topic '{name}' collides with existing topics: {same[0]}"
            )


def is_valid_name(name: str) -> bool:
    """Whether a topic may be called so."""
    return _NAME.fullmatch(name) is not None and name not in (".", "..")


def _collides(name: str, other: str) -> bool:
    return name.replace(".", "_") == other.replace(".", "_")
