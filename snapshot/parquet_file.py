"""One Parquet file of samples, whose bytes follow from its rows alone.

However the rows came in, row groups and pages are the same; another release of pyarrow may write
other bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.types import is_primitive as is_fixed

from tenuto.snapshot.durable import fsync

# Rows in memory before they are written: as many, or fewer where rows are wide. How many follows
# from the schema alone, so that the bytes of a file go on following from its rows.
ROW_GROUP_ROWS = 32_768
ROW_GROUP_BYTES = 32 << 20
# What a string counts for.
_STRING_BYTES = 32

# All that shapes the bytes is named, so that a change of pyarrow's defaults changes nothing.
_OPTIONS = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": True,
    "write_statistics": True,
    "data_page_size": 1 << 20,
    "dictionary_pagesize_limit": 1 << 20,
    "write_batch_size": 1024,
    "store_schema": True,
    "write_page_checksum": True,
}


class Written(NamedTuple):
    """What a finished file came to."""

    bytes: int
    sha256: str
    rows: int


def group_rows(schema: pa.Schema) -> int:
    """Rows of a row group: all that are in memory before they are written."""
    bits = sum(
        field.type.bit_width if is_fixed(field.type) else 8 * _STRING_BYTES for field in schema
    )
    return int(min(ROW_GROUP_ROWS, max(1, 8 * ROW_GROUP_BYTES // max(1, bits))))


class ParquetFile:
    """A file being written; nothing else looks at ``path`` until it is finished.

    Args:
        path: of the file; its directory exists.
        schema: of every batch.

    Raises:
        OSError: on any call, when the disk does not take it; discard the file then.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.schema = schema
        self._rows = 0
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._group_rows = group_rows(schema)
        self._writer = pq.ParquetWriter(path, schema, **_OPTIONS)

    def add(self, rows: pa.RecordBatch) -> None:
        """Append rows."""
        self._waiting.append(rows)
        self._waiting_rows += rows.num_rows
        if self._waiting_rows >= self._group_rows:
            self._write(self._waiting_rows - self._waiting_rows % self._group_rows)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the rows in memory."""
        return sum(rows.nbytes for rows in self._waiting)

    def finish(self) -> Written:
        """Write what is left, and wait until all of it is on the disk."""
        self._write(self._waiting_rows)
        self._writer.close()
        fsync(self.path)
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Written(self.path.stat().st_size, digest, self._rows)

    def discard(self) -> None:
        """Remove what was written."""
        # Closing writes the footer: where the disk is full it fails again, of a file that goes.
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()
        self.path.unlink(missing_ok=True)

    def _write(self, count: int) -> None:
        # One run of memory per column: pages are cut where one ends.
        table = pa.Table.from_batches(self._waiting, self.schema).combine_chunks()
        for first in range(0, count, self._group_rows):
            group = table.slice(first, min(self._group_rows, count - first))
            self._writer.write_table(group, row_group_size=self._group_rows)
        self._rows += count
        self._waiting = table.slice(count).to_batches()
        self._waiting_rows -= count
