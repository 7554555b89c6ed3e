"""Dead letters: refused records on a topic of their own, with their bytes, origin and reason.

A letter's key is its origin, ``topic/partition/offset``, so a worker that dies between writing a
letter and moving its progress writes it twice, and whoever reads counts origins. Why a record is
refused is in ``tenuto.streams.door``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tenuto.streams.refusals import Refusal

log = logging.getLogger(__name__)

MAX_KEY_BYTES = 256
MAX_TEXT_BYTES = 2_048
# Room for the letter's own key and headers, and for the batch around it.
OVERHEAD_BYTES = 8_192
# Letters that are on their way together. More would wait for each other in the producer, each of
# them woken whenever there is room for some.
_AT_ONCE = 1_000
# What is kept of a letter that the broker finds too large in spite of what was configured.
_LAST_RESORT_BYTES = 4_096

_TOPIC, _PARTITION, _OFFSET = "origin-topic", "origin-partition", "origin-offset"
_TIMESTAMP, _KEY, _KEY_SHA256 = "origin-timestamp-ms", "origin-key", "origin-key-sha256"
_REASON, _TEXT, _TRUNCATED = "reason", "reason-text", "truncated-from-bytes"


class Letter(NamedTuple):
    """A dead letter as a Kafka record."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as read back.

    Attributes:
        topic, partition, offset: where the refused record was.
        value: its untouched bytes, or the first of them where ``truncated_from_bytes`` says how
            many there were; empty for none.
        key: its key; None if it had none or one longer than 256 bytes, then ``key_sha256`` (hex)
            identifies it.
        timestamp_ms: its Kafka timestamp.
    """

    topic: str
    partition: int
    offset: int
    reason: str
    text: str
    value: bytes
    key: bytes | None
    key_sha256: str | None
    timestamp_ms: int
    truncated_from_bytes: int | None


def letter(refusal: Refusal, max_value_bytes: int) -> Letter:
    """The record that carries ``refusal``, its value cut to at most ``max_value_bytes``."""
    value = refusal.value or b""
    headers = [
        (_TOPIC, refusal.topic.encode()),
        (_PARTITION, b"%d" % refusal.partition),
        (_OFFSET, b"%d" % refusal.offset),
        (_TIMESTAMP, b"%d" % refusal.timestamp_ms),
        (_REASON, refusal.reason.encode()),
        (_TEXT, refusal.text.encode(errors="replace")[:MAX_TEXT_BYTES]),
    ]
    if refusal.key is not None and len(refusal.key) <= MAX_KEY_BYTES:
        headers.append((_KEY, refusal.key))
    elif refusal.key is not None:
        headers.append((_KEY_SHA256, hashlib.sha256(refusal.key).hexdigest().encode()))
    if len(value) > max_value_bytes:
        headers.append((_TRUNCATED, b"%d" % len(value)))
        value = value[:max_value_bytes]
    origin = f"{refusal.topic}/{refusal.partition}/{refusal.offset}"
    return Letter(origin.encode(), value, headers)


def parse(value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> DeadLetter:
    """The dead letter that a record of the topic carries.

    Raises:
        ValueError: the record is not a dead letter.
    """
    # A header may have no value, which is as good as no header.
    found = {name: content for name, content in headers if content is not None}
    try:
        truncated_from, key_sha256 = found.get(_TRUNCATED), found.get(_KEY_SHA256)
        return DeadLetter(
            topic=found[_TOPIC].decode(),
            partition=int(found[_PARTITION]),
            offset=int(found[_OFFSET]),
            reason=found[_REASON].decode(),
            text=found[_TEXT].decode(errors="replace"),
            value=value or b"",
            key=found.get(_KEY),
            key_sha256=None if key_sha256 is None else key_sha256.decode(),
            timestamp_ms=int(found[_TIMESTAMP]),
            truncated_from_bytes=None if truncated_from is None else int(truncated_from),
        )
    except KeyError as error:
        raise ValueError(f"not a dead letter: header {error.args[0]!r} is missing") from error
    except ValueError as error:
        raise ValueError(f"not a dead letter: {error}") from error


class DeadLetterWriter:
    """Writes refused records to the dead-letters topic, before progress moves past them.

    Args:
        producer: a started ``AIOKafkaProducer`` with ``acks="all"``, without idempotence (nothing
            could follow upon a letter that is too large) and with a ``max_request_size`` of at
            least ``max_message_bytes``.
        topic: of the dead letters, namespace included.
        max_message_bytes: what that topic allows (its ``max.message.bytes``).

    Attributes:
        written: letters acknowledged.
        truncated: how many of them do not hold all bytes of their record.
    """

    def __init__(self, producer: Any, topic: str, *, max_message_bytes: int) -> None:
        if max_message_bytes <= OVERHEAD_BYTES:
            raise ValueError(
                f"max_message_bytes: {max_message_bytes} for {topic}: must be > {OVERHEAD_BYTES}"
            )
        self.written = 0
        self.truncated = 0
        self._producer = producer
        self._topic = topic
        self._max_value_bytes = max_message_bytes - OVERHEAD_BYTES

    async def write(self, refusals: Sequence[Refusal]) -> None:
        """Returns once the broker has acknowledged all of them.

        Raises:
            aiokafka.errors.KafkaError: some were not acknowledged; progress must not move.
            ValueError: the topic does not even allow a few kilobytes.
        """
        whole = self._max_value_bytes
        too_large = await self._write(refusals, whole, _AT_ONCE)
        # The topic allows less than it was said to, which holds for what is sent together as for
        # one record. A record must not stop the stream for that.
        too_large = await self._write(too_large, whole, 1)
        if await self._write(too_large, _LAST_RESORT_BYTES, 1):
            raise ValueError(
                f"{self._topic}: refuses even {_LAST_RESORT_BYTES} bytes: raise max.message.bytes"
            )

    async def _write(
        self, refusals: Sequence[Refusal], max_value_bytes: int, at_once: int
    ) -> list[Refusal]:
        """The refusals whose letters were too large; of the others all are acknowledged."""
        too_large = []
        for at in range(0, len(refusals), at_once):
            some = refusals[at : at + at_once]
            too_large += await self._write_together(some, max_value_bytes)
        return too_large

    async def _write_together(
        self, refusals: Sequence[Refusal], max_value_bytes: int
    ) -> list[Refusal]:
        # Reading letters needs no aiokafka.
        from aiokafka.errors import MessageSizeTooLargeError

        outcomes = await asyncio.gather(
            *(self._write_one(letter(refusal, max_value_bytes)) for refusal in refusals),
            return_exceptions=True,
        )
        too_large = []
        for refusal, outcome in zip(refusals, outcomes, strict=True):
            if outcome is None:
                self.written += 1
                self.truncated += len(refusal.value or b"") > max_value_bytes
            elif isinstance(outcome, MessageSizeTooLargeError):
                too_large.append(refusal)
            else:
                raise outcome
        return too_large

    async def _write_one(self, record: Letter) -> None:
        await self._producer.send_and_wait(
            self._topic, value=record.value, key=record.key, headers=record.headers
        )


def read(
    connection: Mapping[str, Any], topic: str, *, timeout_s: float = 30.0
) -> Iterator[DeadLetter]:
    """The dead letters that are there now, one per origin, each partition in its order.

    Args:
        connection: options of a kafka-python client, ``bootstrap_servers`` and the like.
        topic: of the dead letters, namespace included.
        timeout_s: how long the broker may say nothing.

    Raises:
        LookupError: there is no such topic.
        TimeoutError: the broker said nothing for that long.
    """
    from kafka import KafkaConsumer, TopicPartition

    with_options = {**connection, "group_id": None, "enable_auto_commit": False}
    consumer = KafkaConsumer(**with_options)
    try:
        partitions = [
            TopicPartition(topic, number)
            for number in sorted(consumer.partitions_for_topic(topic) or ())
        ]
        if not partitions:
            raise LookupError(f"{topic}: no such topic: create it with `tenuto topics`")
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        consumer.seek_to_beginning(*partitions)
        yield from _distinct(_records(consumer, ends, topic, timeout_s))
    finally:
        consumer.close()


def count_by_reason(letters: Iterable[DeadLetter]) -> Counter[tuple[str, str]]:
    """How many distinct origins were refused, by (topic, reason)."""
    return Counter((dead.topic, dead.reason) for dead in letters)


def _records(consumer: Any, ends: Mapping[Any, int], topic: str, timeout_s: float) -> Iterator[Any]:
    heard_s = time.monotonic()
    while any(consumer.position(at) < end for at, end in ends.items()):
        polled = consumer.poll(timeout_ms=500)
        if polled:
            heard_s = time.monotonic()
        elif time.monotonic() - heard_s > timeout_s:
            raise TimeoutError(f"{topic}: the broker said nothing for {timeout_s:g} s")
        for at, records in polled.items():
            yield from (record for record in records if record.offset < ends[at])


def _distinct(records: Iterable[Any]) -> Iterator[DeadLetter]:
    origins: set[tuple[str, int, int]] = set()
    for record in records:
        try:
            dead = parse(record.value, record.headers or ())
        except ValueError as error:
            # Anybody may have written there.
            log.warning("%s[%d]@%d: %s: ignored", *record[:3], error)
            continue
        origin = (dead.topic, dead.partition, dead.offset)
        if origin not in origins:
            origins.add(origin)
            yield dead
