"""Looking into a batch: needed for few questions, so batches are parsed only when one is asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from aiokafka.errors import UnsupportedCodecError
from aiokafka.record import MemoryRecords

from tenuto.local.broker.errors import Code, RefusedError


class Record(NamedTuple):
    """What is asked about a record."""

    offset: int
    timestamp_ms: int
    has_key: bool


def records(batch: bytes | bytearray) -> Iterator[Record]:
    """The records of one batch in order.

    Raises:
        RefusedError: it is compressed by a codec that is not installed here, or no batch inside.
    """
    try:
        for parsed in MemoryRecords(bytes(batch)).next_batch():
            yield Record(parsed.offset, parsed.timestamp, parsed.key is not None)
    except UnsupportedCodecError as error:
        raise RefusedError(Code.UNSUPPORTED_COMPRESSION_TYPE, str(error)) from error
    except (RefusedError, GeneratorExit):
        raise
    except Exception as error:
        raise RefusedError(Code.CORRUPT_MESSAGE, f"The records cannot be read: {error}") from error
