"""One record batch in Kafka's format 2: its header, its checks, and what a broker rewrites of it.

Batches are kept as the bytes that the producer sent; compressed ones are not looked into.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from tenuto.local.broker.errors import Code, RefusedError

try:
    from crc32c import crc32c
except ImportError:
    # Who does without that package (docs/decisions/0008) has aiokafka's, a tenth as fast.
    from aiokafka.record.util import calc_crc32c as crc32c  # type: ignore[no-redef]

HEADER = struct.Struct(">qiibIhiqqqhii")
_OFFSET_AND_LENGTH = 12
_LEADER_EPOCH_AT = 12
_CRC_AT = 17
_ATTRIBUTES_AT = 21
_MAX_TIMESTAMP_AT = 35

COMPRESSION = 0x07
_LOG_APPEND_TIME = 0x08
_TRANSACTIONAL = 0x10
_CONTROL = 0x20

_OFFSET_TO_EPOCH = struct.Struct(">qii")
_TIMESTAMP = struct.Struct(">q")


class Header(NamedTuple):
    """The fields before the records, by their names in Kafka's protocol guide."""

    base_offset: int
    batch_length: int
    partition_leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records_count: int


def checked(batch: memoryview, max_bytes: int) -> Header:
    """The header of a batch that may be appended; ``batch`` must be exactly one.

    Raises:
        RefusedError: it may not: it is torn, too large, of another format, or not a plain one.
    """
    size = len(batch)
    if size < HEADER.size:
        raise RefusedError(Code.INVALID_RECORD, "There must be exactly one record batch")
    header = Header._make(HEADER.unpack_from(batch))
    if header.magic != 2:
        raise RefusedError(Code.INVALID_RECORD, f"Record format {header.magic}: only 2 is taken")
    if header.batch_length + _OFFSET_AND_LENGTH != size:
        raise RefusedError(Code.INVALID_RECORD, "There must be exactly one record batch")
    if size > max_bytes:
        raise RefusedError(
            Code.MESSAGE_TOO_LARGE,
            f"The record batch size is {size} bytes: max.message.bytes is {max_bytes}",
        )
    if crc32c(batch[_ATTRIBUTES_AT:]) != header.crc:
        raise RefusedError(Code.CORRUPT_MESSAGE, "The record batch does not match its CRC")
    if header.records_count < 1 or header.last_offset_delta != header.records_count - 1:
        raise RefusedError(
            Code.INVALID_RECORD,
            f"{header.records_count} records, but the last offset delta is "
            f"{header.last_offset_delta}",
        )
    if header.attributes & _CONTROL:
        raise RefusedError(Code.INVALID_RECORD, "Clients may not write control records")
    if header.attributes & _TRANSACTIONAL:
        raise RefusedError(Code.INVALID_TXN_STATE, "This broker has no transactions")
    return header


def is_stamped(attributes: int) -> bool:
    """Whether the batch says that a broker stamped it."""
    return bool(attributes & _LOG_APPEND_TIME)


def place(batch: bytearray, offset: int) -> None:
    """Give the batch its base offset and leader epoch; both lie outside the CRC."""
    _, length, _ = _OFFSET_TO_EPOCH.unpack_from(batch)
    _OFFSET_TO_EPOCH.pack_into(batch, 0, offset, length, 0)


def stamp(batch: bytearray, attributes: int, now_ms: int) -> None:
    """Make every record's timestamp ``now_ms``, as message.timestamp.type=LogAppendTime wants."""
    struct.pack_into(">h", batch, _ATTRIBUTES_AT, attributes | _LOG_APPEND_TIME)
    _TIMESTAMP.pack_into(batch, _MAX_TIMESTAMP_AT, now_ms)
    crc = crc32c(memoryview(batch)[_ATTRIBUTES_AT:])
    struct.pack_into(">I", batch, _CRC_AT, crc)


def max_timestamp(batch: bytes | bytearray) -> int:
    """Largest timestamp in the batch, ms."""
    return int(_TIMESTAMP.unpack_from(batch, _MAX_TIMESTAMP_AT)[0])
