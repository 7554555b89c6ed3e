"""Telling others than the store's readers: the ``checkpoints`` topic, key = model name.

kafka-python is loaded when a topic is used, and only then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tenuto.trainer.checkpoints.manifest import Announcement, encode


class AnnounceError(OSError):
    """A topic did not take an announcement: which, and why."""


TRANSIENT = (OSError,)
"""What publishing tries again: a medium's errors, those of topics among them."""


class Announcer(Protocol):
    """Hands announcements on, each once and in order."""

    def deliver(self, kept: Sequence[Announcement]) -> None:
        """Hand on those that were not yet.

        Args:
            kept: the log, oldest first.

        Raises:
            OSError: not all were; safe to repeat.
        """


class TopicAnnouncer:
    """Announcements in a compacted topic of one partition.

    Args:
        topic: on the broker.
        options: of kafka-python's clients: ``bootstrap_servers`` and security.
        timeout_s: how long the broker may take to acknowledge one.
    """

    def __init__(self, topic: str, options: Mapping[str, Any], *, timeout_s: float = 10.0) -> None:
        self._topic = topic
        self._options = dict(options)
        self._timeout_s = timeout_s
        self._sent: dict[str, int] = {}
        self._producer: Any = None

    def deliver(self, kept: Sequence[Announcement]) -> None:
        from kafka.errors import KafkaError

        try:
            for announcement in kept:
                model = announcement.model
                if model not in self._sent:
                    self._sent[model] = self._last_in_topic(model)
                if announcement.sequence > self._sent[model]:
                    self._send(announcement)
                    self._sent[model] = announcement.sequence
        except KafkaError as error:
            raise AnnounceError(f"topic {self._topic}: {error!r}") from error

    def close(self) -> None:
        """Disconnect."""
        if self._producer is not None:
            self._producer.close()
            self._producer = None

    def _send(self, announcement: Announcement) -> None:
        from kafka import KafkaProducer

        timeout_ms = int(self._timeout_s * 1_000)
        if self._producer is None:
            self._producer = KafkaProducer(
                **self._options,
                acks="all",
                max_block_ms=timeout_ms,
                delivery_timeout_ms=timeout_ms,
                request_timeout_ms=timeout_ms,
                bootstrap_timeout_ms=timeout_ms,
            )
        sent = self._producer.send(
            self._topic, encode(announcement), announcement.model.encode(), partition=0
        )
        sent.get(self._timeout_s)

    def _last_in_topic(self, model: str) -> int:
        """What a former process has delivered."""
        from tenuto.trainer.checkpoints.topic_source import TopicSource

        with TopicSource(self._topic, model, self._options, self._timeout_s) as source:
            return max((heard.sequence for heard in source.all()), default=0)
