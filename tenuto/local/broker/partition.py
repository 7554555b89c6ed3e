"""A partition as producers and consumers see it: a log under its topic's settings."""

from __future__ import annotations

from collections.abc import Callable

from tenuto.local.broker.batch import Header, checked, is_stamped, stamp
from tenuto.local.broker.errors import Code, RefusedError
from tenuto.local.broker.partition_log import PartitionLog
from tenuto.local.broker.records import records
from tenuto.local.broker.sequences import Appended, Sequences
from tenuto.local.broker.topic_settings import Effective

_FOREVER = 2**63 - 1


class Partition:
    """One partition.

    Attributes:
        log: its batches.
        settings: of its topic.
        deleted: with its topic; whoever still holds it must let go.
        watchers: each is called after an append, and when the topic is deleted.
    """

    def __init__(self, settings: Effective) -> None:
        self.log = PartitionLog()
        self.settings = settings
        self.deleted = False
        self.watchers: set[Callable[[], None]] = set()
        self._sequences = Sequences()

    def append(self, batch: memoryview, now_ms: int) -> Appended:
        """Append what a producer sent; a double of an idempotent producer's is appended once.

        Raises:
            RefusedError: the batch is not one, or the topic's settings forbid it.
        """
        settings = self.settings
        header = checked(batch, settings.max_message_bytes)
        idempotent = header.producer_id >= 0
        if idempotent and (double := self._sequences.double_of(header)):
            return double
        kept = bytearray(batch)
        newest_ms = header.max_timestamp
        stamped_ms = -1
        if settings.log_append_time:
            newest_ms = stamped_ms = now_ms
            stamp(kept, header.attributes, now_ms)
        else:
            self._check_stamps(header, kept, now_ms)
        if settings.compacted and not all(record.has_key for record in records(kept)):
            raise RefusedError(Code.INVALID_RECORD, "A compacted topic takes no record without key")
        offset = self.log.append(kept, header.records_count, newest_ms)
        appended = Appended(offset, stamped_ms)
        if idempotent:
            self._sequences.append(header, appended)
        self.notify()
        return appended

    def retain(self, now_ms: int) -> None:
        """Let go of what the topic's settings no longer keep."""
        if self.settings.retention_ms >= 0:
            self.log.expire(now_ms - self.settings.retention_ms)
        if self.settings.retention_bytes >= 0:
            self.log.shrink(self.settings.retention_bytes)

    def notify(self) -> None:
        """Call the watchers."""
        for watcher in self.watchers:
            watcher()

    def _check_stamps(self, header: Header, batch: bytearray, now_ms: int) -> None:
        if is_stamped(header.attributes):
            raise RefusedError(
                Code.INVALID_TIMESTAMP, "Producers may not set the timestamp type LogAppendTime"
            )
        latest_ms = now_ms + self.settings.after_max_ms
        if header.max_timestamp > latest_ms:
            raise RefusedError(
                Code.INVALID_TIMESTAMP, f"Timestamp {header.max_timestamp} is after {latest_ms}"
            )
        if self.settings.before_max_ms == _FOREVER:
            return
        oldest_ms = now_ms - self.settings.before_max_ms
        for record in records(batch):
            # Kafka lets records pass that have no timestamp at all.
            if -1 < record.timestamp_ms < oldest_ms:
                raise RefusedError(
                    Code.INVALID_TIMESTAMP, f"Timestamp {record.timestamp_ms} is before {oldest_ms}"
                )
