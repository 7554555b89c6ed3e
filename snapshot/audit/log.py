"""A recorded log: what a broker's topics held, record by record, as the audit takes it.

Plain values in memory. Where they come from, a broker or a recording on disk, is another module's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record as the broker holds it; offsets may have gaps (markers, compaction).

    Attributes:
        timestamp_ms: the record's own timestamp, epoch ms, by whichever clock the topic has.
    """

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class PartitionLog:
    """Offsets ``[start, end)`` of one partition, records in their order."""

    start: int
    end: int
    records: Sequence[RawRecord]


@dataclass(frozen=True, slots=True)
class TopicLog:
    """One topic: the 16 bytes that name its life, and its partitions by number."""

    incarnation: bytes
    partitions: Sequence[PartitionLog]


@dataclass(frozen=True, slots=True)
class RecordedLog:
    """All topics of one namespace.

    Attributes:
        topics: by name without the namespace: each event's, ``snapshots``, each sample stream's
            (``samples``, ``samples-<stream>`` as ``tenuto.topic_plan`` names them) and
            ``dead-letters``.
        partitions: of the input topics.
    """

    topics: Mapping[str, TopicLog]
    partitions: int
