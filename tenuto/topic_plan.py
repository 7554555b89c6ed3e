"""The topics that an application needs, as settings want them."""

from __future__ import annotations

from tenuto.features.durations import duration_ms
from tenuto.platform import Platform
from tenuto.settings import Settings
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import Sizes, Topic, plan


def topic_plan(settings: Settings, platform: Platform) -> list[Topic]:
    """Every topic; stamped by the broker where workers are live, else by the driver."""
    return plan(
        TopicNames(settings.namespace),
        platform.events,
        platform.samples,
        partitions=settings.kafka.partitions,
        sizes=Sizes(settings.limits.event_bytes, settings.limits.snapshot_bytes),
        clock="broker" if settings.workers.live else "driver",
        retention_ms=duration_ms(settings.kafka.retention),
    )
