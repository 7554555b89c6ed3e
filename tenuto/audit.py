"""The audit of an application: its topics read off the broker, its declarations and settings.

What is compared, and how, is in ``tenuto.snapshot.audit``.
"""

from __future__ import annotations

from tenuto.platform import Platform
from tenuto.settings import Settings
from tenuto.snapshot.audit.declared import Declared
from tenuto.snapshot.audit.log import RecordedLog
from tenuto.snapshot.audit.recording import recording_order
from tenuto.streams.recording import record
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import Topics


def declared(platform: Platform, settings: Settings) -> Declared:
    """What the audit must know of an application."""
    rules = settings.time.rules()
    return Declared(
        platform.events,
        platform.feature_set(rules),
        platform.samples,
        platform.scores,
        rules,
        settings.limits.event_bytes,
        settings.limits.snapshot_bytes,
    )


def record_log(platform: Platform, settings: Settings) -> RecordedLog:
    """Everything that the topics of the settings' namespace hold now.

    Raises:
        CredentialsError: Kafka refuses the user, the password or the mechanism.
        UnavailableError: it does not answer.
        LookupError, TopicError: a topic is not there.
        TimeoutError, KafkaError: it cannot be read.
    """
    names = TopicNames(settings.namespace)
    order = recording_order(
        [event.name for event in platform.events], [stream.topic for stream in platform.samples]
    )
    with Topics(settings.kafka) as admin:
        return record(
            settings.kafka.kafka_python(),
            [(short, names.of(short)) for short in order],
            admin.incarnation,
            partitions=settings.kafka.partitions,
        )
