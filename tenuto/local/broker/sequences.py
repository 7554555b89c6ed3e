"""Idempotent producers of one partition: which batch is the next of each, and which came twice."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from tenuto.local.broker.batch import Header
from tenuto.local.broker.errors import Code, RefusedError

# As in Kafka: a producer has at most so many requests in flight, so older doubles cannot come.
_KEPT = 5
_MODULUS = 2**31


class Appended(NamedTuple):
    """Where a batch was appended; ``timestamp_ms`` is -1 unless the broker stamped it."""

    offset: int
    timestamp_ms: int


@dataclass(slots=True)
class _Producer:
    epoch: int
    next: int
    last: deque[tuple[int, int, Appended]] = field(default_factory=lambda: deque(maxlen=_KEPT))


class Sequences:
    """The producers that have written to a partition with a producer id."""

    def __init__(self) -> None:
        self._producers: dict[int, _Producer] = {}

    def double_of(self, header: Header) -> Appended | None:
        """Where the batch was appended already, if it was; None if it is its producer's next.

        Raises:
            RefusedError: it is neither, or of a producer that has been fenced.
        """
        producer = self._producers.get(header.producer_id)
        if producer is None:
            # The state may have been dropped with the records that it was about.
            return None
        if header.producer_epoch < producer.epoch:
            raise RefusedError(
                Code.INVALID_PRODUCER_EPOCH,
                f"Producer {header.producer_id} has epoch {producer.epoch}, not "
                f"{header.producer_epoch}",
            )
        if header.producer_epoch > producer.epoch:
            expected = 0
        else:
            for sequence, count, appended in producer.last:
                if sequence == header.base_sequence and count == header.records_count:
                    return appended
            expected = producer.next
        if header.base_sequence != expected:
            raise RefusedError(
                Code.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"Producer {header.producer_id}: sequence {header.base_sequence}, but {expected} "
                "is next",
            )
        return None

    def append(self, header: Header, appended: Appended) -> None:
        """Remember a batch that ``double_of`` let pass."""
        producer = self._producers.get(header.producer_id)
        if producer is None or producer.epoch != header.producer_epoch:
            producer = self._producers[header.producer_id] = _Producer(header.producer_epoch, 0)
        producer.next = (header.base_sequence + header.records_count) % _MODULUS
        producer.last.append((header.base_sequence, header.records_count, appended))
