"""What becomes of a record given to an outbox: its future, its place in the log, or an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from kafka.errors import KafkaError


class SendError(RuntimeError):
    """A record was not, or may not have been, written."""


class BufferFullError(SendError):
    """Too much is waiting for the broker; this record was not taken."""


class BrokerUnavailableError(SendError):
    """No broker answered, or it does not know the topic; this record was not taken."""


class RecordTooLargeError(SendError):
    """The record exceeds what may be sent; it was not taken."""


class Sent(NamedTuple):
    """Where an acknowledged record is."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


@dataclass(slots=True)
class Counts:
    """What this process's records came to; ``refused`` were never taken into the outbox."""

    taken: int = 0
    acknowledged: int = 0
    failed: int = 0
    refused: int = 0


class Sending:
    """The future of one record."""

    __slots__ = ("_future",)

    def __init__(self, future: Any) -> None:
        self._future = future

    def done(self) -> bool:
        """Whether the broker has acknowledged the record, or it has failed."""
        return bool(self._future.is_done)

    def result(self, timeout_s: float | None = None) -> Sent:
        """Wait for the acknowledgement.

        Raises:
            SendError: the record failed.
            TimeoutError: neither has happened after ``timeout_s``.
        """
        try:
            at = self._future.get(timeout_s)
        except KafkaError as error:
            if not self.done():
                raise TimeoutError(f"not acknowledged after {timeout_s} s") from error
            raise SendError(f"not acknowledged: {error}") from error
        return Sent(at.topic, at.partition, at.offset, at.timestamp)

    def add_done_callback(self, call: Callable[[Sending], None]) -> None:
        """Call ``call(self)`` once done, from the sending thread, or now if done already."""
        self._future.add_both(lambda _: call(self))
