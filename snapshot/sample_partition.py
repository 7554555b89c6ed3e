"""What a samples partition's records add, one after the other, to whoever reads them.

Repetitions of replaced joiners add nothing, and a damaged record is an error that names its place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import pyarrow as pa

from tenuto.snapshot.chain import Chain, Kind, new_rows
from tenuto.snapshot.sample_record import Interval, decode_rows, interval_of

logger = logging.getLogger(__name__)


class SampleTopicError(RuntimeError):
    """A samples topic that cannot be read; names the place."""


class Record(Protocol):
    """A Kafka record, as kafka-python and aiokafka give it."""

    offset: int
    headers: Iterable[tuple[str, bytes]]
    value: bytes | None


class Addition(NamedTuple):
    """What a record adds to what was read before it.

    Attributes:
        interval: of the record.
        since: snapshot offset from which its rows were not read before.
        rows: those of its rows that were not read before, if any.
        place: of the record.
    """

    interval: Interval
    since: int
    rows: pa.RecordBatch | None
    place: str


class SamplePartition:
    """One partition's chain of records.

    Args:
        name: of the partition, such as ``"samples[3]"``.
        start: snapshot offset to go on from; None to begin where the first record does.
        arrival_ms: of what was read before.
        life: 16 bytes that name the topic's life, where they are known: records of another are
            ignored.
        deleted_before: offset of the samples topic before which records may follow deleted ones:
            where one starts later than what was read, reading goes on from there, with a warning.

    Attributes:
        chain: how far it has been read.
        missed: snapshot offsets whose samples were deleted before they were read.
        old: how many records repeated what was read before.
        foreign: how many were no samples of this topic.
    """

    def __init__(
        self,
        name: str,
        start: int | None = None,
        *,
        arrival_ms: int = 0,
        life: bytes = b"",
        deleted_before: int = 0,
    ) -> None:
        self.chain = Chain(start, arrival_ms=arrival_ms)
        self.missed = self.old = self.foreign = 0
        self._life = life
        self._name = name
        self._in_gap = False
        self._deleted_before = deleted_before

    def take(self, record: Record) -> Addition | None:
        """What the next record adds; None where it repeats, or something before it is missing.

        Raises:
            SampleTopicError: the record is damaged.
        """
        place = f"{self._name}@{record.offset}"
        try:
            interval = interval_of(record.headers, self._life)
        except ValueError as error:
            # Without an interval it is no link of the chain: what lacks one shows as a gap.
            logger.warning("%s: %s: ignored", place, error)
            self.foreign += 1
            return None
        if record.offset < self._deleted_before:
            self._skip_deleted(interval, place)
        verdict = self.chain.take(interval)
        if verdict.kind is Kind.GAP and not self._in_gap:
            logger.warning(
                "%s: samples of snapshot offsets [%d, %d) are missing before it: ignored until "
                "they come", place, verdict.since, interval.start,
            )  # fmt: skip
        self._in_gap = verdict.kind is Kind.GAP
        self.old += verdict.kind is Kind.OLD
        if verdict.kind is not Kind.NEW:
            return None
        if not record.value:
            return Addition(interval, verdict.since, None, place)
        try:
            rows = new_rows(decode_rows(record.value), interval, verdict.since)
        except ValueError as error:
            raise SampleTopicError(f"{place}: damaged samples record: {error}") from error
        return Addition(interval, verdict.since, rows if rows.num_rows else None, place)

    def _skip_deleted(self, interval: Interval, place: str) -> None:
        # Not of the first record alone, which may repeat what came before the deleted ones.
        position = self.chain.position
        if position is not None and interval.start > position:
            logger.warning(
                "%s: samples of snapshot offsets [%d, %d) were deleted before they were read: "
                "going on without them", place, position, interval.start,
            )  # fmt: skip
            self.missed += interval.start - position
            self.chain.position = interval.start
