"""The audit of an application: its topics read off the broker, its declarations and settings.

What is compared, and how, is in ``tenuto.snapshot.audit``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tenuto.features.buckets import Buckets
from tenuto.platform import Platform
from tenuto.settings import Settings
from tenuto.snapshot.audit.audit import audit
from tenuto.snapshot.audit.declared import Declared
from tenuto.snapshot.audit.findings import Findings
from tenuto.snapshot.audit.log import RecordedLog
from tenuto.snapshot.audit.recording import recording_order
from tenuto.streams.recording import record
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import Topics

_BLOCK = 500


class AuditError(ValueError):
    """A log that cannot be audited: what of it does not fit the application or its settings."""


def record_log(platform: Platform, settings: Settings) -> RecordedLog:
    """Everything that the topics of the settings' namespace hold now.

    Raises:
        CredentialsError: Kafka refuses the user, the password or the mechanism.
        UnavailableError: it does not answer.
        LookupError, TopicError: a topic is not there.
        TimeoutError, KafkaError: it cannot be read.
    """
    names = TopicNames(settings.namespace)
    with Topics(settings.kafka) as admin:
        return record(
            settings.kafka.kafka_python(),
            [(short, names.of(short)) for short in _order(platform)],
            admin.incarnation,
            partitions=settings.kafka.partitions,
        )


def read_state(platform: Platform, settings: Settings) -> dict[bytes, bytes]:
    """What Redis holds of an application's features, by key; it must stand still meanwhile.

    Raises:
        AuditError: it was written to.
        RedisError: it cannot be read.
    """
    layout = platform.feature_set(settings.time.rules()).layout
    buckets = Buckets.connect(settings.redis, layout, settings.kafka.partitions, settings.namespace)
    found: dict[bytes, bytes] = {}
    for store in buckets.stores:
        before: Any = store.client.get(store.progress_key)
        keys = list(store.all_keys())
        values: list[Any] = []
        for first in range(0, len(keys), _BLOCK):
            values += store.client.mget(keys[first : first + _BLOCK])
        if store.client.get(store.progress_key) != before:
            raise AuditError(
                f"redis at {settings.redis.address}: was written to while its state was read: "
                "stop the feature workers, or leave the state out"
            )
        found |= {k: value for k, value in zip(keys, values, strict=True) if value is not None}
    return found


def audit_log(
    platform: Platform,
    settings: Settings,
    log: RecordedLog,
    *,
    share: float = 1.0,
    files: Mapping[str, Path] | None = None,
    state: Mapping[bytes, bytes] | None = None,
    strict: bool = False,
) -> Findings:
    """Audit a log with an application's declarations; arguments as ``snapshot.audit.audit`` says.

    Raises:
        AuditError: the log is of another application, or there is neither a snapshot to compare
            nor a state.
    """
    for name in _order(platform):
        topic = log.topics.get(name)
        if topic is None:
            raise AuditError(f"the log has no topic {name}, which app {settings.app} declares")
        if name != "dead-letters" and len(topic.partitions) != log.partitions:
            raise AuditError(
                f"{name}: has {len(topic.partitions)} partitions, not {log.partitions}: set "
                "kafka.partitions to what the topics were made with"
            )
    findings = audit(
        declared(platform, settings), log, share=share, files=files, state=state, strict=strict
    )
    if not findings.snapshots and findings.clean and not state:
        raise AuditError("0 snapshots to compare: nothing to audit")
    return findings


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


def _order(platform: Platform) -> list[str]:
    return recording_order(
        [event.name for event in platform.events], [stream.topic for stream in platform.samples]
    )
