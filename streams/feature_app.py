"""The feature worker as a process: a Faust app around :class:`FeatureWorker`, ready to run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import faust
import redis

from tenuto.features.buckets import Buckets
from tenuto.features.events import Event
from tenuto.streams.batches import TP
from tenuto.streams.codec import EventCodec
from tenuto.streams.door import Limits
from tenuto.streams.feature_metrics import FeatureMetrics
from tenuto.streams.feature_progress import FeatureProgress
from tenuto.streams.feature_worker import FeatureWorker
from tenuto.streams.full_store import FullStore
from tenuto.streams.process import Beats, Broker, Connections, Opening, close_with, repeat
from tenuto.streams.transport import install_batches
from tenuto.streams.worker import faust_app

logger = logging.getLogger(__name__)

WATCH_EVERY_S = 1.0
GUARD_EVERY_S = 5.0
# As long as much is found, sweeping takes half of the time.
SWEEP_EVERY_S = 0.1
SWEEP_MOST_S = 0.1


def feature_app(
    name: str,
    *,
    events: Sequence[Event],
    store: Buckets,
    broker: Broker,
    limits: Limits,
    reset: bool = False,
    **faust_settings: Any,
) -> faust.App:
    """An app whose agent keeps the state in ``store`` up to date; run it with ``worker.run``.

    Args:
        name: of the platform; workers of one platform and layout share the partitions.
        events: of the platform; those that the layout counts are read.
        store: of the layout that is kept up to date.
        limits: what a record must satisfy.
        reset: rebuild a store that belongs to another life of the topics, instead of refusing.
        faust_settings: as for ``faust_app``.
    """
    layout = store.layout
    fed = [event for event in events if event.name in layout.topics]
    topics = broker.topics.events(fed)
    # A changed layout has a group of its own, and readers go on with the old one's state; so has
    # another number of buckets.
    parts = f"-{len(store)}" if len(store) > 1 else ""
    group = broker.topics.of(f"{name}-features-{layout.digest}{parts}")
    app = faust_app(group, **broker.connection.faust(), **faust_settings)
    connections = Connections(broker)
    metrics = FeatureMetrics()
    full = FullStore(metrics.store_full)
    progress = FeatureProgress(store, connections.log, topics, full, reset=reset)
    codecs = {topics[event.name]: EventCodec(event) for event in fed}
    worker = FeatureWorker(store, progress, codecs, limits, connections, metrics, full)
    worker.delivery = install_batches(app, Opening(connections, worker), metrics.reads.in_flight)
    everything = [TP(topic, p) for topic in topics.values() for p in range(limits.n_partitions)]
    beats = Beats(
        app,
        connections,
        lambda: progress.entries,
        metrics.reads.heartbeats_failed,
        live=broker.live,
    )

    @app.agent(app.topic(*topics.values()))
    async def features(stream: Any) -> None:
        async for batch in stream:
            beats.seen(batch)
            await worker.take(batch)

    repeat(app, WATCH_EVERY_S, worker.watch)
    repeat(app, SWEEP_EVERY_S, lambda: worker.sweep(everything, SWEEP_MOST_S))
    repeat(app, GUARD_EVERY_S, worker.guard)

    @app.on_before_shutdown.connect
    async def finish(*_: Any, **__: Any) -> None:
        try:
            await worker.finish()
        except redis.RedisError as error:
            # Whoever comes next goes on in the middle of it.
            logger.warning("the batch in hand was not finished: %s", error)

    close_with(app, connections)
    return app
