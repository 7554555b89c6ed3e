"""Heartbeats: empty records that do nothing but move a partition's arrival.

Live, each worker writes one to every input partition of its own that has been silent for a
second, so that time goes on where nothing happens; the end of a replay is a marked one. On topics
whose timestamps the producer sets only the driver writes them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tenuto.streams.headers import END, HEARTBEAT, header

log = logging.getLogger(__name__)


class Heartbeat(NamedTuple):
    """What to send, to an explicit partition and without a key."""

    value: bytes
    headers: list[tuple[str, bytes]]


def heartbeat(*, end: bool = False) -> Heartbeat:
    """A heartbeat; with ``end`` the mark after which a replay's partition says nothing more."""
    headers = [(HEARTBEAT, b"1")]
    if end:
        headers.append((END, b"1"))
    return Heartbeat(b"", headers)


def is_heartbeat(value: bytes | None, headers: Iterable[tuple[str, bytes]] | None) -> bool:
    """Whether a record is a heartbeat: an empty value and the header that says so."""
    return not value and header(headers, HEARTBEAT) is not None


def is_end(headers: Iterable[tuple[str, bytes]] | None) -> bool:
    """Whether a heartbeat is a replay's end mark."""
    return header(headers, END) is not None


class HeartbeatWriter:
    """Writes to each assigned partition in which the worker has seen no record for a while.

    Any record ends a silence, heartbeats included, so that several writers of one partition do
    not add up. A heartbeat that the broker does not take is counted and not repeated: the next one
    says the same. On the event loop only.

    Args:
        producer: a started ``AIOKafkaProducer``.
        silent_after_s: how long a partition is silent before it gets one.
        clock: seconds of a steady clock. It decides when to write, never what time a record has:
            that is the broker's.

    Attributes:
        written, failed: how many the broker took and did not take.
    """

    def __init__(
        self,
        producer: Any,
        *,
        silent_after_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.written = 0
        self.failed = 0
        self._producer = producer
        self._silent_after_s = silent_after_s
        self._clock = clock
        self._last_s: dict[tuple[str, int], float] = {}

    def assign(self, partitions: Iterable[tuple[str, int]]) -> None:
        """The (topic, partition) pairs to keep awake from now on; replaces the former ones."""
        now_s = self._clock()
        self._last_s = {(t, p): self._last_s.get((t, p), now_s) for t, p in partitions}

    def seen(self, topic: str, partition: int) -> None:
        """The worker has read a record of that partition."""
        if (topic, partition) in self._last_s:
            self._last_s[topic, partition] = self._clock()

    def due(self) -> list[tuple[str, int]]:
        """The partitions that have been silent for too long by now."""
        silent_since_s = self._clock() - self._silent_after_s
        return [at for at, last_s in self._last_s.items() if last_s <= silent_since_s]

    async def beat(self) -> int:
        """Write one heartbeat to each partition that is due; how many the broker took.

        Raises:
            Exception: one that another attempt would not mend, such as a missing permission.
        """
        due = self.due()
        for at in due:
            self._last_s[at] = self._clock()
        outcomes = await asyncio.gather(*map(self._write, due), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return sum(outcome is True for outcome in outcomes)

    async def run(self) -> None:
        """Write heartbeats until cancelled.

        Raises:
            Exception: as ``beat``; the worker is to stop, or its partitions' time would.
        """
        while True:
            await asyncio.sleep(self._silent_after_s / 4)
            await self.beat()

    async def _write(self, at: tuple[str, int]) -> bool:
        topic, partition = at
        value, headers = heartbeat()
        try:
            await self._producer.send_and_wait(
                topic, value=value, partition=partition, headers=headers
            )
        except Exception as error:
            if not getattr(error, "retriable", False):
                raise
            self.failed += 1
            log.warning("heartbeat to %s[%d] failed: %r", topic, partition, error)
            return False
        self.written += 1
        return True
