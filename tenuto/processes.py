"""From settings to what the stream processes take."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from prometheus_client import REGISTRY, disable_created_metrics, start_http_server

from tenuto import logs
from tenuto.settings import Settings
from tenuto.streams.door import Limits
from tenuto.streams.process import Broker
from tenuto.streams.rebuild_metrics import retention_metrics
from tenuto.streams.retention import Retention, shortfalls
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import Sizes, Topics

logger = logging.getLogger(__name__)


def limits_of(settings: Settings) -> Limits:
    """What an event record must satisfy."""
    return Limits(settings.kafka.partitions, settings.time.rules(), settings.limits.event_bytes)


def broker_of(settings: Settings) -> Broker:
    """Where a worker's topics are."""
    sizes = Sizes(settings.limits.event_bytes, settings.limits.snapshot_bytes)

    def incarnation(topic: str) -> bytes:
        with Topics(settings.kafka) as topics:
            return topics.incarnation(topic)

    return Broker(
        settings.kafka,
        TopicNames(settings.namespace),
        incarnation,
        max_dead_letter_bytes=sizes.derived_bytes,
        max_sample_bytes=sizes.derived_bytes,
        live=settings.workers.live,
    )


def worker_settings(settings: Settings) -> dict[str, Any]:
    """Faust's settings."""
    workers = settings.workers
    return {
        "max_poll_records": workers.max_poll_records,
        "consumer_group_instance_id": workers.instance or None,
        "session_timeout_s": workers.session_timeout_s,
        "rebalance_timeout_s": workers.rebalance_timeout_s,
    }


def begin(settings: Settings, log_format: str) -> None:
    """Log, and serve Prometheus metrics where ``workers.metrics_port`` is set."""
    logs.configure(log_format)
    workers = settings.workers
    # A series of creation times beside each counter is of no use to anybody here.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    if workers.metrics_port:
        start_http_server(workers.metrics_port, workers.metrics_host)
        logger.info("metrics on %s:%d", workers.metrics_host, workers.metrics_port)


def show_retention(kept: Sequence[Retention], needed_ms: int) -> None:
    """Warn of topics that keep less than a rebuild of Redis must read, and show both in metrics."""
    for line in shortfalls(kept, needed_ms):
        logger.warning("%s", line)
    retention_metrics(REGISTRY, needed_ms / 1000.0, {topic.topic: topic.seconds for topic in kept})
