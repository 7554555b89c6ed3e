"""Announcements of one model out of the ``checkpoints`` topic, by kafka-python."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from tenuto.trainer.checkpoints.announcer import AnnounceError
from tenuto.trainer.checkpoints.errors import CheckpointError
from tenuto.trainer.checkpoints.manifest import Announcement, decode_announcement

logger = logging.getLogger(__name__)

_POLL_MS = 100


class TopicSource:
    """A :class:`~tenuto.trainer.checkpoints.sources.Source`; reads partition 0 from its begin.

    Args:
        topic: on the broker.
        model: others' announcements are passed over.
        options: of ``kafka.KafkaConsumer``: ``bootstrap_servers`` and security.
        timeout_s: how long the broker may be silent, though there is more to read.

    Raises:
        AnnounceError: the broker does not answer, or has no such topic.
    """

    def __init__(
        self, topic: str, model: str, options: Mapping[str, Any], timeout_s: float = 10.0
    ) -> None:
        self._model = model
        self._seen = 0
        self._timeout_s = timeout_s
        self._tp = TopicPartition(topic, 0)
        try:
            self._consumer = KafkaConsumer(
                **options,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                bootstrap_timeout_ms=int(timeout_s * 1_000),
            )
            if 0 not in (self._consumer.partitions_for_topic(topic) or ()):
                self._consumer.close()
                raise AnnounceError(f"topic {topic}: does not exist: run `tenuto topics`")
            self._consumer.assign([self._tp])
            self._consumer.seek_to_beginning(self._tp)
        except KafkaError as error:
            raise AnnounceError(f"topic {topic}: {error!r}") from error

    def new(self) -> list[Announcement]:
        found: list[Announcement] = []
        try:
            polled = self._consumer.poll(timeout_ms=_POLL_MS)
        except KafkaError as error:
            raise AnnounceError(f"topic {self._tp.topic}: {error!r}") from error
        refused: CheckpointError | None = None
        for record in polled.get(self._tp, []):
            if record.key != self._model.encode() or not record.value:
                continue
            try:
                one = decode_announcement(record.value, f"{self._tp.topic}@{record.offset}")
            except CheckpointError as error:
                refused = error
                logger.warning("announcement ignored: %s", error)
                continue
            # A publisher that was replaced may say again what was said.
            if one.model == self._model and one.sequence > self._seen:
                self._seen = one.sequence
                found.append(one)
        if refused is not None and not found:
            raise refused
        return found

    def all(self) -> list[Announcement]:
        """What the topic holds now.

        Raises:
            AnnounceError: the broker does not tell in time.
        """
        found: list[Announcement] = []
        try:
            end = self._consumer.end_offsets([self._tp])[self._tp]
            give_up_s = time.monotonic() + self._timeout_s
            while self._consumer.position(self._tp) < end:
                before = self._consumer.position(self._tp)
                with contextlib.suppress(CheckpointError):
                    found += self.new()
                if self._consumer.position(self._tp) > before:
                    give_up_s = time.monotonic() + self._timeout_s
                elif time.monotonic() > give_up_s:
                    raise AnnounceError(f"topic {self._tp.topic}: {before} of {end} read in time")
        except KafkaError as error:
            raise AnnounceError(f"topic {self._tp.topic}: {error!r}") from error
        return found

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def __enter__(self) -> TopicSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
