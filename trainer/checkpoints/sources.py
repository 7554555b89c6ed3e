"""Where a feed hears of checkpoints: the files of a store, or a topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tenuto.trainer.checkpoints.log import AnnouncementLog
from tenuto.trainer.checkpoints.manifest import Announcement
from tenuto.trainer.checkpoints.store import Store

_KAFKA = "kafka://"


class Source(Protocol):
    """Announcements in the order of their sequence, each once."""

    def new(self) -> list[Announcement]:
        """What came since the last call; does not wait for more.

        Raises:
            CheckpointError: the newest cannot be read.
            OSError: the medium does not answer.
        """

    def close(self) -> None:
        """Disconnect."""


class StoreSource:
    """Follows ``latest.json``; at first, also the announcements before it that are kept."""

    def __init__(self, log: AnnouncementLog) -> None:
        self._log = log
        self._seen = 0

    def new(self) -> list[Announcement]:
        latest = self._log.latest()
        if latest is None or latest.sequence == self._seen:
            return []
        if latest.sequence < self._seen:
            if max(self._log.sequences(), default=0) >= self._seen:
                # Of a publisher that was replaced.
                return []
            # What was heard is nowhere: the store was emptied, and counts from 1 again.
            self._log.forget()
            self._seen = 0
        # One behind latest is not in force yet: its publisher is about to say so, or died.
        kept = self._log.since(self._seen)
        self._seen = latest.sequence
        return [*(one for one in kept if one.sequence < latest.sequence), latest]

    def close(self) -> None:
        return


def is_topic(url: str) -> bool:
    """Whether a feed's URL is that of a topic, ``kafka://host:port,host:port/topic``."""
    return url.startswith(_KAFKA)


def open_source(url: str, store: Store, model: str, kafka: Mapping[str, Any]) -> Source:
    """Follow a topic, or else the store itself.

    Raises:
        ValueError: a topic's URL without servers or topic.
        OSError: the broker does not answer.
    """
    if not is_topic(url):
        return StoreSource(AnnouncementLog(store, model))
    from tenuto.trainer.checkpoints.topic_source import TopicSource

    servers, _, topic = url.removeprefix(_KAFKA).partition("/")
    if not (servers and topic):
        raise ValueError(f"{url}: write kafka://host:port/topic")
    return TopicSource(topic, model, {"bootstrap_servers": servers.split(","), **kafka})
