"""What a file being written holds in memory is a row group, whose size is its schema's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tenuto.snapshot.parquet_file import ROW_GROUP_BYTES, ROW_GROUP_ROWS, ParquetFile, group_rows

COLUMNS = 800
WIDE = pa.schema([pa.field(f"c{at}", pa.float64()) for at in range(COLUMNS)])
ROWS = 7_000
PIECE = 500


def rows(start: int) -> pa.RecordBatch:
    column = pa.array(np.arange(start, start + PIECE, dtype=np.float64))
    return pa.RecordBatch.from_arrays([column] * COLUMNS, schema=WIDE)


def test_of_wide_rows_fewer_wait_in_memory(tmp_path: Path) -> None:
    file = ParquetFile(tmp_path / "wide", WIDE)
    most = 0
    for start in range(0, ROWS, PIECE):
        file.add(rows(start))
        most = max(most, file.waiting_bytes)
    assert ROWS * COLUMNS * 8 > 1.2 * ROW_GROUP_BYTES, "all of them would be more than a group"
    assert 0 < most <= ROW_GROUP_BYTES
    assert file.finish().rows == ROWS
    metadata = pq.read_metadata(tmp_path / "wide")
    sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
    assert sizes == [group_rows(WIDE), ROWS - group_rows(WIDE)]


def test_a_row_group_of_narrow_rows_is_bounded_in_rows() -> None:
    narrow = pa.schema([pa.field("a", pa.bool_()), pa.field("b", pa.string())])
    assert group_rows(narrow) == ROW_GROUP_ROWS
    assert group_rows(WIDE) == ROW_GROUP_BYTES // (8 * COLUMNS)
