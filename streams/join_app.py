"""The joiner as a process: a Faust app around :class:`JoinWorker`, ready to run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import faust

from tenuto.features.events import Event
from tenuto.snapshot.labels import SampleStream
from tenuto.snapshot.sample_record import Interval
from tenuto.streams.codec import EventCodec
from tenuto.streams.door import Limits
from tenuto.streams.join_metrics import JoinMetrics
from tenuto.streams.join_worker import JoinWorker
from tenuto.streams.process import Beats, Broker, Connections, Opening, close_with, repeat
from tenuto.streams.transport import install_batches
from tenuto.streams.worker import faust_app

TELL_EVERY_S = 1.0
# A join of many snapshots costs little more than one of a single one.
EMIT_EVERY_S = 0.1
WEIGH_EVERY_S = 1.0


def join_app(
    name: str,
    *,
    stream: SampleStream,
    events: Sequence[Event],
    counted: Collection[str],
    scores: Sequence[str],
    broker: Broker,
    limits: Limits,
    max_snapshot_bytes: int,
    max_memory_bytes: int,
    **faust_settings: Any,
) -> faust.App:
    """An app whose agent joins one sample stream; run it with ``worker.run``.

    Args:
        name: of the platform; joiners of one platform and stream share the partitions.
        stream: labels and windows.
        events: of the platform; those that the stream needs are read.
        counted: names of the events that features count: their refusals are the feature worker's.
        scores: names of the served scores that samples show.
        limits: of event records, the same as the feature worker's.
        max_snapshot_bytes: largest snapshot that counts.
        max_memory_bytes: labels and snapshots that may wait in memory.
        faust_settings: as for ``faust_app``.
    """
    group = broker.topics.of(f"{name}-join-{stream.name}")
    app = faust_app(group, **broker.connection.faust(), **faust_settings)
    connections = Connections(broker)
    needed = {label.event.name for label in stream.labels}
    read = [event for event in events if event.name in needed or event.implies_impression]
    topics = broker.topics.events(read)
    metrics = JoinMetrics()
    worker = JoinWorker(
        stream,
        read,
        {topics[event.name]: EventCodec(event) for event in read},
        snapshots_topic=broker.topics.snapshots,
        samples_topic=broker.topics.of(stream.topic),
        limits=limits,
        snapshot_limits=replace(limits, max_record_bytes=max_snapshot_bytes),
        log=connections.log,
        samples=_Samples(connections, broker.topics.of(stream.topic)),
        dead_letters=connections,
        scores=scores,
        judged={event.name for event in read} - set(counted),
        metrics=metrics,
        max_bytes=max_memory_bytes,
    )
    worker.delivery = install_batches(app, Opening(connections, worker), metrics.reads.in_flight)
    # A partition that is not being read for now is not silent.
    beats = Beats(
        app,
        connections,
        lambda: worker.held - worker.paused,
        metrics.reads.heartbeats_failed,
        live=broker.live,
    )

    @app.agent(app.topic(broker.topics.snapshots, *topics.values()))
    async def join(stream: Any) -> None:
        async for batch in stream:
            beats.seen(batch)
            await worker.take(batch)

    repeat(app, EMIT_EVERY_S, worker.emit)
    repeat(app, TELL_EVERY_S, worker.tell_progress)
    repeat(app, WEIGH_EVERY_S, worker.weigh)
    close_with(app, connections)
    return app


class _Samples:
    """The samples topic: a record is sent when the one before it is acknowledged."""

    def __init__(self, connections: Connections, topic: str) -> None:
        self._connections = connections
        self._topic = topic

    async def send(
        self, partition: int, interval: Interval, value: bytes | None, life: bytes
    ) -> None:
        await self._connections.producer.send_and_wait(
            self._topic,
            value=value if value is not None else b"",
            partition=partition,
            headers=interval.headers(life),
            timestamp_ms=interval.arrival_ms,
        )
