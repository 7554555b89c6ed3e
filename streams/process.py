"""What the stream workers' processes share: their connections, opened once, and their timers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import faust
from aiokafka import AIOKafkaProducer
from prometheus_client import Counter

from tenuto.streams.batches import TP, Batch, Positions
from tenuto.streams.broker_log import BrokerLog
from tenuto.streams.connection import KafkaConnection
from tenuto.streams.dead_letters import DeadLetterWriter
from tenuto.streams.heartbeats import HeartbeatWriter
from tenuto.streams.topic_names import TopicNames

_BEAT_EVERY_S = 0.25


@dataclass(frozen=True)
class Broker:
    """Where a worker's topics are.

    Attributes:
        connection: to Kafka.
        topics: names.
        incarnation: blocking function from a topic's name to the 16 bytes of its life.
        max_dead_letter_bytes: what the dead-letters topic allows.
        max_sample_bytes: what the samples topics allow.
        live: whether workers write heartbeats; False where a driver makes time.
    """

    connection: KafkaConnection
    topics: TopicNames
    incarnation: Callable[[str], bytes]
    max_dead_letter_bytes: int
    max_sample_bytes: int
    live: bool = True


# A flood of refused records is written in batches of this size: by aiokafka's own, each of 16 kB
# would wait for the one before it.
_BATCH_BYTES = 256 * 1_024


class Connections:
    """A worker's own producer and its view of the log, opened when it is first asked for
    positions, and so before any batch."""

    def __init__(self, broker: Broker) -> None:
        self.log = BrokerLog(broker.connection.aiokafka(), broker.incarnation)
        self._broker = broker
        self._producer: AIOKafkaProducer | None = None
        self._dead_letters: DeadLetterWriter | None = None

    @property
    def producer(self) -> AIOKafkaProducer:
        assert self._producer is not None, "open() comes first"
        return self._producer

    async def write(self, refusals: Any) -> None:
        """Write dead letters; returns once they are acknowledged."""
        assert self._dead_letters is not None, "open() comes first"
        await self._dead_letters.write(refusals)

    async def open(self) -> None:
        """Connect, once."""
        if self._producer is not None:
            return
        broker = self._broker
        most = max(broker.max_dead_letter_bytes, broker.max_sample_bytes)
        # Not idempotent: each record is awaited before the next, and a double is harmless to
        # whoever reads dead letters (by origin) and samples (by interval).
        producer = AIOKafkaProducer(
            **broker.connection.aiokafka(), acks="all", max_request_size=most,
            max_batch_size=min(most, _BATCH_BYTES),
        )  # fmt: skip
        await producer.start()
        await self.log.start()
        self._dead_letters = DeadLetterWriter(
            producer, broker.topics.dead_letters, max_message_bytes=broker.max_dead_letter_bytes
        )
        self._producer = producer

    async def close(self) -> None:
        """Disconnect."""
        await self.log.stop()
        if self._producer is not None:
            await self._producer.stop()


class Opening:
    """Positions of a worker whose connections are opened before the first are asked for."""

    def __init__(self, connections: Connections, positions: Positions) -> None:
        self._connections = connections
        self._positions = positions

    async def start_positions(self, partitions: set[TP]) -> Mapping[TP, int]:
        await self._connections.open()
        return await self._positions.start_positions(partitions)

    async def on_revoked(self, partitions: set[TP]) -> None:
        await self._positions.on_revoked(partitions)


class Beats:
    """Keeps the time of silent partitions going, where workers do that and no driver.

    Args:
        app: of the worker.
        connections: of the worker.
        partitions: those to keep awake, asked each time.
        failed: counts heartbeats that the broker did not take.
        live: False where a driver makes time.
    """

    def __init__(
        self,
        app: faust.App,
        connections: Connections,
        partitions: Callable[[], Collection[TP]],
        failed: Counter,
        *,
        live: bool,
    ) -> None:
        self._connections = connections
        self._partitions = partitions
        self._failed = failed
        self._writer: HeartbeatWriter | None = None
        if live:
            repeat(app, _BEAT_EVERY_S, self._beat)

    def seen(self, batch: Batch) -> None:
        """The worker has read records of that partition."""
        if self._writer is not None:
            self._writer.seen(batch.topic, batch.partition)

    async def _beat(self) -> None:
        partitions = self._partitions()
        if self._writer is None:
            if not partitions:
                return
            self._writer = HeartbeatWriter(self._connections.producer)
        before = self._writer.failed
        self._writer.assign(partitions)
        await self._writer.beat()
        self._failed.inc(self._writer.failed - before)


def repeat(app: faust.App, every_s: float, action: Callable[[], Awaitable[Any]]) -> None:
    """Run ``action`` again and again while the app runs; an exception crashes the worker."""

    @app.task
    async def repeated() -> None:
        while not app.should_stop:
            await asyncio.sleep(every_s)
            try:
                await action()
            except Exception as error:
                # A task that merely ends would leave a worker that looks alive.
                await app.crash(error)
                raise


def close_with(app: faust.App, connections: Connections) -> None:
    """Close the connections when the app shuts down."""

    @app.on_before_shutdown.connect
    async def close(*_: Any, **__: Any) -> None:
        await connections.close()
