"""Which records of a recorded log count, judged one by one as docs/events.md says.

The second opinion on the platform's doors. Bytes are read in ``json_records.py`` (events) and
``msgpack_records.py`` (snapshots); here are time, place and order of the reasons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tenuto.features.events import Event
from tenuto.features.rules import TimeRules
from tenuto.snapshot.audit.json_records import event_fields
from tenuto.snapshot.audit.log import RawRecord, TopicLog
from tenuto.snapshot.audit.msgpack_records import snapshot_fields

_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class JudgedEvent:
    """An event that counts.

    Attributes:
        arrival_ms: largest record timestamp of its partition up to it, epoch ms.
        fields: base fields and its own, defaults filled in; a missing position is -1.
    """

    event: str
    partition: int
    offset: int
    arrival_ms: int
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class JudgedSnapshot:
    """A snapshot that counts; ``fields`` as docs/events.md names them, defaults filled in."""

    partition: int
    offset: int
    arrival_ms: int
    fields: dict[str, Any]


Counted = TypeVar("Counted", JudgedEvent, JudgedSnapshot)


@dataclass(slots=True)
class JudgedTopic(Generic[Counted]):
    """One topic, judged.

    Attributes:
        accepted: what counts, by partition, in offset order.
        refused: why each other record does not, by (partition, offset).
        arrivals: by partition the (offset, arrival ms) of every record, heartbeats included.
        ended: by partition, whether it holds a replay's end mark.
    """

    accepted: list[list[Counted]] = field(default_factory=list)
    refused: dict[tuple[int, int], str] = field(default_factory=dict)
    arrivals: list[list[tuple[int, int]]] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)


def judge_events(
    event: Event, log: TopicLog, rules: TimeRules, *, max_bytes: int, partitions: int
) -> JudgedTopic[JudgedEvent]:
    """Judge the topic of an event.

    Args:
        max_bytes: of a record's value (``limits.event_bytes``).
        partitions: of every input topic.
    """
    judged: JudgedTopic[JudgedEvent] = JudgedTopic()
    for partition in range(len(log.partitions)):
        found: list[JudgedEvent] = []

        def keep(
            offset: int, arrival: int, fields: dict[str, Any], p: int = partition, to: Any = found
        ) -> None:
            to.append(JudgedEvent(event.name, p, offset, arrival, fields))

        _judge(
            judged, log, partition, keep, lambda value: event_fields(event, value), "ts",
            rules.lateness_ms, rules.future_ms, max_bytes, partitions,
        )  # fmt: skip
        judged.accepted.append(found)
    return judged


def judge_snapshots(
    log: TopicLog, rules: TimeRules, *, max_bytes: int, partitions: int
) -> JudgedTopic[JudgedSnapshot]:
    """Judge the snapshots topic; ``max_bytes`` is ``limits.snapshot_bytes``."""
    judged: JudgedTopic[JudgedSnapshot] = JudgedTopic()
    for partition in range(len(log.partitions)):
        found: list[JudgedSnapshot] = []

        def keep(
            offset: int, arrival: int, fields: dict[str, Any], p: int = partition, to: Any = found
        ) -> None:
            to.append(JudgedSnapshot(p, offset, arrival, fields))

        _judge(
            judged, log, partition, keep, snapshot_fields, "request_ts",
            rules.snapshot_lateness_ms, rules.future_ms, max_bytes, partitions,
        )  # fmt: skip
        judged.accepted.append(found)
    return judged


def _judge(
    judged: JudgedTopic[Any],
    log: TopicLog,
    partition: int,
    keep: Callable[[int, int, dict[str, Any]], None],
    read: Callable[[bytes], dict[str, Any] | str],
    time_field: str,
    lateness_ms: int,
    future_ms: int,
    max_bytes: int,
    partitions: int,
) -> None:
    arrival = 0
    arrivals: list[tuple[int, int]] = []
    ended = False
    for record in log.partitions[partition].records:
        arrival = max(arrival, record.timestamp_ms)
        arrivals.append((record.offset, arrival))
        if is_heartbeat(record):
            ended = ended or _has_header(record, "tenuto-end")
            continue
        value = record.value
        if not value:
            fields: dict[str, Any] | str = "empty"
        elif len(value) > max_bytes:
            fields = "oversized"
        else:
            fields = read(value)
        if not isinstance(fields, str):
            age = arrival - fields[time_field]
            if home_partition(fields["request_id"], partitions) != partition:
                fields = "misplaced"
            elif age > lateness_ms:
                fields = "late"
            elif age < -future_ms:
                fields = "future"
        if isinstance(fields, str):
            judged.refused[partition, record.offset] = fields
        else:
            keep(record.offset, arrival, fields)
    judged.arrivals.append(arrivals)
    judged.ended.append(ended)


def is_heartbeat(record: RawRecord) -> bool:
    """Whether a record only moves arrival."""
    return not record.value and _has_header(record, "tenuto-heartbeat")


def home_partition(request_id: str, partitions: int) -> int:
    """The partition that a request belongs to: Java's murmur2 of its id, its sign bit cleared."""
    return (murmur2(request_id.encode()) & 0x7FFFFFFF) % partitions


def murmur2(key: bytes) -> int:
    """As ``org.apache.kafka.common.utils.Utils.murmur2``, unsigned."""
    m = 0x5BD1E995
    h = 0x9747B28C ^ len(key)
    whole = len(key) - len(key) % 4
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little")
        k = k * m & _MASK
        k ^= k >> 24
        k = k * m & _MASK
        h = (h * m & _MASK) ^ k
    if whole < len(key):
        h ^= int.from_bytes(key[whole:], "little")
        h = h * m & _MASK
    h ^= h >> 13
    h = h * m & _MASK
    return h ^ (h >> 15)


def _has_header(record: RawRecord, name: str) -> bool:
    return any(key == name for key, _ in record.headers)
