"""An outbox: records on their way to Kafka, bounded in memory and in waiting, safe over a fork.

What serving tiers send through: a broker that is slow or gone costs them at most a given wait
and a typed error. It knows topics, keys and bytes; what a record says is its callers' business.
"""

from __future__ import annotations

# Resolving a name imports this at the first time. A fork meanwhile leaves a child whose module is
# half made or locked for good, so it is imported before anything connects.
import encodings.idna  # noqa: F401
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from tenuto.streams.sending import (
    BrokerUnavailableError,
    BufferFullError,
    Counts,
    RecordTooLargeError,
    SendError,
    Sending,
    Sent,
)

__all__ = [
    "BrokerUnavailableError",
    "BufferFullError",
    "Counts",
    "Outbox",
    "RecordTooLargeError",
    "SendError",
    "Sending",
    "Sent",
]

# A failed attempt to connect costs its full wait: the next ones fail at once for a while.
_RECONNECT_AFTER_S = 1.0
# Key, headers and bookkeeping of a waiting record, beside its value.
_RECORD_OVERHEAD_BYTES = 256


class Outbox:
    """Sends records idempotently, acknowledged by all replicas, partitioned by murmur2 of the key.

    Opens nothing until the first ``connect`` or ``send``, each process for itself: a forked child
    starts with an empty outbox and connections of its own, and its parent's are left to the
    parent. Thread-safe.

    Args:
        connection: options of a kafka-python client, ``bootstrap_servers`` and the like.
        max_block_ms: how long a ``send`` may wait for room, for a connection or for a topic.
        max_pending_bytes: how much may wait for acknowledgement (kafka-python sets no bound).
        max_record_bytes: largest value that may be sent.
        linger_ms: how long a record may wait for others to share its request.
        delivery_timeout_ms: after which an unacknowledged record has failed.
    """

    def __init__(
        self,
        connection: Mapping[str, Any],
        *,
        max_block_ms: int = 1_000,
        max_pending_bytes: int = 32 * 2**20,
        max_record_bytes: int = 1_000_000,
        linger_ms: int = 5,
        delivery_timeout_ms: int = 300_000,
    ) -> None:
        self._max_block_ms = max_block_ms
        self._max_pending_bytes = max_pending_bytes
        self._max_record_bytes = max_record_bytes
        self._options: dict[str, Any] = {
            "max_in_flight_requests_per_connection": 5,
            "batch_size": 64 * 1024,
            "linger_ms": linger_ms,
            "delivery_timeout_ms": delivery_timeout_ms,
            "metrics_enabled": False,
            **connection,
            "acks": "all",
            "enable_idempotence": True,
            "allow_auto_create_topics": False,
            "max_block_ms": max_block_ms,
            # The value's bound is checked here; this one also covers key, headers and batch.
            "max_request_size": max_record_bytes + 64 * 1024,
        }
        # By process id. A parent's client stays here for good: collected in a child, it would
        # close what both processes share.
        self._clients: dict[int, _Client] = {}

    @property
    def counts(self) -> Counts:
        """Of this process, so far."""
        return self._client().counts

    @property
    def pending_bytes(self) -> int:
        """Bytes waiting for acknowledgement."""
        return self._client().pending_bytes

    def connect(self, topics: Sequence[str] = (), *, timeout_s: float = 10.0) -> None:
        """Connect now and learn about ``topics``, so that the first ``send`` need not.

        Raises:
            BrokerUnavailableError: no broker answered, or a topic does not exist.
        """
        give_up_s = time.monotonic() + timeout_s
        client = self._client()
        producer = client.producer(self._options, int(timeout_s * 1_000))
        for topic in topics:
            self._learn(producer, topic, give_up_s)
        client.topics.update(topics)

    def is_ready(self, topics: Sequence[str]) -> bool:
        """Whether a ``send`` to one of ``topics`` would find a connection, the topic and room."""
        client = self._client()
        room_bytes = self._max_pending_bytes - client.pending_bytes
        return client.topics.issuperset(topics) and (
            room_bytes >= self._max_record_bytes + _RECORD_OVERHEAD_BYTES
        )

    def send(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Sending:
        """Take a record; it is sent in the background.

        Raises:
            BufferFullError: there was no room within ``max_block_ms``.
            BrokerUnavailableError: there was no connection, or no such topic, within that time.
            RecordTooLargeError: the value has more than ``max_record_bytes``.
        """
        record = _Record(topic, value, key, headers, partition, timestamp_ms)
        client = self._client()
        self._check_size(client, record)
        try:
            producer = client.producer(self._options, self._max_block_ms)
            client.reserve(record.n_bytes, self._max_pending_bytes, self._max_block_ms / 1_000)
        except SendError:
            client.refuse()
            raise
        sending = self._hand_over(client, producer, record)
        client.topics.add(topic)
        return sending

    def try_send(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Sending | None:
        """Take a record only if that needs no waiting; None where ``send`` would have to wait.

        Raises:
            RecordTooLargeError, BrokerUnavailableError: as ``send``.
        """
        record = _Record(topic, value, key, headers, partition, timestamp_ms)
        client = self._client()
        self._check_size(client, record)
        producer = client.connected_to(topic)
        if producer is None:
            return None
        try:
            client.reserve(record.n_bytes, self._max_pending_bytes, 0.0)
        except BufferFullError:
            return None
        return self._hand_over(client, producer, record)

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until everything taken so far is acknowledged.

        Raises:
            SendError: some record has failed since the last ``flush``.
            TimeoutError: something still waits after ``timeout_s``.
        """
        self._client().flush(timeout_s)

    def close(self, timeout_s: float = 30.0) -> None:
        """Flush and disconnect; a later ``send`` connects again.

        Raises:
            SendError, TimeoutError: as ``flush``; it is disconnected all the same.
        """
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            try:
                client.flush(timeout_s)
            finally:
                client.close()

    def _check_size(self, client: _Client, record: _Record) -> None:
        if len(record.value) > self._max_record_bytes:
            client.refuse()
            raise RecordTooLargeError(
                f"{record.topic}: {len(record.value)} bytes: must be <= {self._max_record_bytes}"
            )

    def _hand_over(self, client: _Client, producer: Any, record: _Record) -> Sending:
        """Give a record, whose room is reserved, to the producer."""
        n_bytes = record.n_bytes
        try:
            future = producer.send(
                record.topic,
                record.value,
                record.key,
                list(record.headers),
                partition=record.partition,
                timestamp_ms=record.timestamp_ms,
            )
        except BaseException as error:
            client.give_back(n_bytes)
            client.refuse()
            if isinstance(error, MessageSizeTooLargeError):
                raise RecordTooLargeError(f"{record.topic}: {error}") from error
            if isinstance(error, KafkaError):
                raise self._unavailable(record.topic, error) from error
            raise
        client.taken()
        future.add_callback(lambda _: client.settle(n_bytes, None))
        future.add_errback(lambda error: client.settle(n_bytes, error))
        return Sending(future)

    def _client(self) -> _Client:
        pid = os.getpid()
        client = self._clients.get(pid)
        if client is None:
            for parents in self._clients.values():
                parents.abandon()
            # Atomic: of two threads' clients, of which neither has connected, one stays.
            client = self._clients.setdefault(pid, _Client())
        return client

    def _learn(self, producer: Any, topic: str, give_up_s: float) -> None:
        while True:
            try:
                # Waits for max_block_ms at most, and a topic just created takes a moment.
                producer.partitions_for(topic)
                return
            except KafkaError as error:
                if not isinstance(error, KafkaTimeoutError) or time.monotonic() > give_up_s:
                    raise self._unavailable(topic, error) from error

    def _unavailable(self, topic: str, error: KafkaError) -> BrokerUnavailableError:
        servers = self._options.get("bootstrap_servers")
        if isinstance(error, KafkaTimeoutError):
            return BrokerUnavailableError(
                f"{topic}: not known to {servers} in time: "
                "is the broker up? create the topic with `tenuto topics`"
            )
        return BrokerUnavailableError(f"{topic}: {error} ({servers})")


class _Record(NamedTuple):
    topic: str
    value: bytes
    key: bytes | None
    headers: Sequence[tuple[str, bytes]]
    partition: int | None
    timestamp_ms: int | None

    @property
    def n_bytes(self) -> int:
        return len(self.value) + len(self.key or b"") + _RECORD_OVERHEAD_BYTES


class _Client:
    """One process's connection, what waits in it, and what has become of the rest."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.pending_bytes = 0
        self.topics: set[str] = set()
        self._producer: Any = None
        self._connecting = threading.Lock()
        self._room = threading.Condition()
        self._first_failure: BaseException | None = None
        self._unreachable_until_s = 0.0

    def producer(self, options: Mapping[str, Any], timeout_ms: int) -> Any:
        if self._producer is not None:
            return self._producer
        servers = options.get("bootstrap_servers")
        if not self._connecting.acquire(timeout=timeout_ms / 1_000):
            raise BrokerUnavailableError(f"{servers}: no broker answered within {timeout_ms} ms")
        try:
            if self._producer is None:
                if time.monotonic() < self._unreachable_until_s:
                    raise BrokerUnavailableError(f"{servers}: no broker answered just now")
                self._producer = KafkaProducer(**options, bootstrap_timeout_ms=timeout_ms)
        except KafkaError as error:
            self._unreachable_until_s = time.monotonic() + _RECONNECT_AFTER_S
            raise BrokerUnavailableError(
                f"{servers}: no broker answered within {timeout_ms} ms ({error})"
            ) from error
        finally:
            self._connecting.release()
        return self._producer

    def connected_to(self, topic: str) -> Any | None:
        """The producer, where it would not stop to connect or to ask about the topic."""
        producer = self._producer
        if producer is None or topic not in self.topics:
            return None
        # Of a topic that was deleted, metadata forgets; then the producer's send() waits.
        return producer if producer._metadata.partitions_for_topic(topic) is not None else None

    def reserve(self, n_bytes: int, max_bytes: int, timeout_s: float) -> None:
        with self._room:
            # One record always fits: or a record larger than the bound could never be sent.
            if not self._room.wait_for(
                lambda: not self.pending_bytes or self.pending_bytes + n_bytes <= max_bytes,
                timeout_s,
            ):
                raise BufferFullError(
                    f"{self.pending_bytes} bytes wait for the broker after {timeout_s:g} s: "
                    f"at most {max_bytes} may"
                )
            self.pending_bytes += n_bytes

    def give_back(self, n_bytes: int) -> None:
        with self._room:
            self.pending_bytes -= n_bytes
            self._room.notify_all()

    def taken(self) -> None:
        with self._room:
            self.counts.taken += 1

    def refuse(self) -> None:
        with self._room:
            self.counts.refused += 1

    def settle(self, n_bytes: int, error: BaseException | None) -> None:
        with self._room:
            self.pending_bytes -= n_bytes
            if error is None:
                self.counts.acknowledged += 1
            else:
                self.counts.failed += 1
                self._first_failure = self._first_failure or error
            self._room.notify_all()

    def flush(self, timeout_s: float | None) -> None:
        if self._producer is None:
            return
        try:
            self._producer.flush(timeout_s)
        except KafkaTimeoutError as error:
            raise TimeoutError(
                f"{self.pending_bytes} bytes not acknowledged after {timeout_s} s"
            ) from error
        with self._room:
            failure, self._first_failure = self._first_failure, None
        if failure is not None:
            raise SendError(f"records failed since the last flush, the first: {failure}")

    def close(self) -> None:
        producer = self._producer
        if producer is None:
            return
        try:
            producer.close(timeout=1)
        except KafkaTimeoutError:
            # It stops closing where something is left: that is to fail, and its thread to end.
            producer._sender.force_close()
            producer._sender.join(1)
            producer._closed = True

    def abandon(self) -> None:
        """Make a parent's producer inert in this child, also at exit and when collected."""
        if self._producer is not None:
            # kafka-python offers no way to say it: a closed producer's close() does nothing.
            self._producer._closed = True
