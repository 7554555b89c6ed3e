"""The client by which serving tiers and beacons write events, sync and async.

It checks records against the application's own declarations, keys them by request and stamps
when they were sent. Buffering, bounds and forks are in ``tenuto.streams.outbox``. Importing it
loads neither Faust nor torch nor aiokafka.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from tenuto.features.events import Event
from tenuto.streams.codec import EventCodec, InvalidEventError
from tenuto.streams.headers import SENT_AT
from tenuto.streams.outbox import Counts, Outbox, Sending, Sent
from tenuto.streams.topic_names import TopicNames

__all__ = ["AsyncEventProducer", "EventProducer", "InvalidEventError"]


class EventProducer:
    """Writes events of an application; thread-safe, and safe to use on both sides of a fork.

    Args:
        app_events: the application's events.
        connection: options of a kafka-python client, ``bootstrap_servers`` and the like.
        namespace: prefix of the topics' names, without the dot.
        validate: whether records are checked before they are sent; otherwise a bad one becomes a
            dead letter.
        clock_ms: wall clock for the ``sent_at`` header, which only metrics read.
        **outbox: bounds, see ``Outbox``.

    Example:
        >>> producer = EventProducer(app.events, {"bootstrap_servers": "127.0.0.1:9092"})
        >>> producer.send("clicks", {"request_id": "r1", "user_id": "u7", "query": "",
        ...     "item_id": "i3", "position": 0, "ts": 1_650_000_000_000})
        >>> producer.flush(timeout_s=5)
    """

    def __init__(
        self,
        app_events: Iterable[Event],
        connection: Mapping[str, Any],
        *,
        namespace: str = "",
        validate: bool = True,
        clock_ms: Callable[[], int] = lambda: int(time.time() * 1_000),
        **outbox: Any,
    ) -> None:
        topics = TopicNames(namespace)
        self._routes = {
            event.name: (EventCodec(event), topics.of(event.name)) for event in app_events
        }
        self._validate = validate
        self._clock_ms = clock_ms
        self._outbox = Outbox(connection, **outbox)

    @property
    def counts(self) -> Counts:
        """Records taken, acknowledged, failed and refused by this process so far."""
        return self._outbox.counts

    def connect(self, *, timeout_s: float = 10.0) -> None:
        """Connect now, so that the first ``send`` need not; each process for itself.

        Raises:
            BrokerUnavailableError: no broker answered, or an event's topic does not exist.
        """
        self._outbox.connect([topic for _, topic in self._routes.values()], timeout_s=timeout_s)

    def send(
        self, event: str | Event, record: Mapping[str, Any], *, timestamp_ms: int | None = None
    ) -> Sending:
        """Take one record; it is written in the background.

        Args:
            event: one of the application's, or its name.
            record: the event's fields by name.
            timestamp_ms: the Kafka timestamp, for replays; the time of sending when not given.

        Raises:
            InvalidEventError: the record is not as declared.
            KeyError: the application has no such event.
            BufferFullError, BrokerUnavailableError, RecordTooLargeError: it was not taken.
        """
        return self._send(self._prepare(event, record), timestamp_ms)

    def send_many(
        self,
        event: str | Event,
        records: Iterable[Mapping[str, Any]],
        *,
        timestamps_ms: Sequence[int] | None = None,
    ) -> list[Sending]:
        """Take records in order; one that is not as declared keeps all of them from being taken.

        Raises:
            SendError: as ``send``; the records before the one it names were taken.
        """
        prepared = [self._prepare(event, record) for record in records]
        stamps = [None] * len(prepared) if timestamps_ms is None else timestamps_ms
        return [self._send(each, stamp) for each, stamp in zip(prepared, stamps, strict=True)]

    def may_block(self) -> bool:
        """Whether a ``send`` right now might wait, for a connection, for a topic or for room."""
        return not self._outbox.is_ready([topic for _, topic in self._routes.values()])

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until everything taken so far is acknowledged.

        Raises:
            SendError: some record has failed since the last ``flush``.
            TimeoutError: something still waits after ``timeout_s``.
        """
        self._outbox.flush(timeout_s)

    def close(self, timeout_s: float = 30.0) -> None:
        """Flush and disconnect; raises as ``flush``."""
        self._outbox.close(timeout_s)

    def __enter__(self) -> EventProducer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _prepare(self, event: str | Event, record: Mapping[str, Any]) -> _Prepared:
        name = event if isinstance(event, str) else event.name
        if name not in self._routes:
            raise KeyError(f"no event {name!r}: there are {', '.join(self._routes)}")
        codec, topic = self._routes[name]
        value = codec.encode(record, validate=self._validate)
        request_id = record.get("request_id")
        if not isinstance(request_id, str):
            raise InvalidEventError(f"request_id: {request_id!r} in {name}: must be a string")
        return _Prepared(topic, request_id.encode(), value)

    def _send(self, prepared: _Prepared, timestamp_ms: int | None) -> Sending:
        return self._outbox.send(
            prepared.topic,
            prepared.value,
            key=prepared.key,
            headers=[(SENT_AT, b"%d" % self._clock_ms())],
            timestamp_ms=timestamp_ms,
        )


class AsyncEventProducer:
    """``EventProducer`` for asyncio, with the same arguments; it never blocks the event loop.

    Waiting for a connection or for room happens on a thread, within the same bounds. Use it as
    ``async with AsyncEventProducer(…) as producer``.
    """

    def __init__(
        self, app_events: Iterable[Event], connection: Mapping[str, Any], **options: Any
    ) -> None:
        self._producer = EventProducer(app_events, connection, **options)

    @property
    def counts(self) -> Counts:
        """Records taken, acknowledged, failed and refused by this process so far."""
        return self._producer.counts

    async def connect(self, *, timeout_s: float = 10.0) -> None:
        """Connect now; raises as ``EventProducer.connect``."""
        await asyncio.to_thread(self._producer.connect, timeout_s=timeout_s)

    async def send(
        self, event: str | Event, record: Mapping[str, Any], *, timestamp_ms: int | None = None
    ) -> Sent:
        """Write one record; returns once it is acknowledged.

        Raises:
            SendError: it was not taken (as ``EventProducer.send``), or failed.
            InvalidEventError, KeyError: as ``EventProducer.send``.
        """
        return await self._acknowledged(await self._take(event, record, timestamp_ms))

    async def send_many(
        self,
        event: str | Event,
        records: Iterable[Mapping[str, Any]],
        *,
        timestamps_ms: Sequence[int] | None = None,
    ) -> list[Sent]:
        """Write records in order; returns once all are acknowledged, raises as ``send``."""
        records = list(records)
        stamps = [None] * len(records) if timestamps_ms is None else timestamps_ms
        deliveries = [
            await self._take(event, record, stamp)
            for record, stamp in zip(records, stamps, strict=True)
        ]
        return list(await asyncio.gather(*map(self._acknowledged, deliveries)))

    async def flush(self, timeout_s: float | None = None) -> None:
        """Wait until everything taken so far is acknowledged; raises as ``EventProducer.flush``."""
        await asyncio.to_thread(self._producer.flush, timeout_s)

    async def close(self, timeout_s: float = 30.0) -> None:
        """Flush and disconnect; raises as ``flush``."""
        await asyncio.to_thread(self._producer.close, timeout_s)

    async def __aenter__(self) -> AsyncEventProducer:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _take(
        self, event: str | Event, record: Mapping[str, Any], timestamp_ms: int | None
    ) -> Sending:
        if self._producer.may_block():
            return await asyncio.to_thread(
                self._producer.send, event, record, timestamp_ms=timestamp_ms
            )
        return self._producer.send(event, record, timestamp_ms=timestamp_ms)

    async def _acknowledged(self, delivery: Sending) -> Sent:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        def done(_: Sending) -> None:
            loop.call_soon_threadsafe(wake)

        delivery.add_done_callback(done)
        await future
        return delivery.result(0)


class _Prepared(NamedTuple):
    topic: str
    key: bytes
    value: bytes
