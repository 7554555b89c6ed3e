"""Samples that no joiner and no sink of ours wrote: refused by name, before they are believed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_log import HOUR_MS, Shown, rows_of, schema_of

from tenuto.snapshot.chain import new_rows
from tenuto.snapshot.dataset import Samples
from tenuto.snapshot.manifests import SampleFilesError, partitions_in
from tenuto.snapshot.sample_record import (
    DamagedRowsError,
    Interval,
    decode_rows,
    encode_rows,
    interval_of,
)

ROWS = rows_of([Shown(3, 10 * HOUR_MS, 2), Shown(4, 10 * HOUR_MS, 1)])
HEADERS = Interval(3, 5, 7).headers()


@pytest.mark.parametrize(
    "changed",
    [
        {"from": None}, {"to": b"2"}, {"from": b"-1"}, {"to": b"9" * 30}, {"arrival": b"1e5"},
        {"arrival": b"9" * 6_000}, {"to": b""},
    ],
    ids=str,
)  # fmt: skip
def test_headers_that_name_no_interval_are_no_samples_record(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a samples record"):
        interval_of([(name, changed.get(name, value)) for name, value in HEADERS])


def test_what_is_no_arrow_stream_is_refused_by_one_error() -> None:
    whole = encode_rows(ROWS)
    for end in range(0, len(whole) - 8, 7):
        with pytest.raises(DamagedRowsError):
            decode_rows(whole[:end])


def test_text_that_reaches_beyond_its_buffer_is_refused() -> None:
    at = ROWS.schema.get_field_index("request_id")
    _, offsets, text = ROWS.column(at).buffers()
    lying = pa.py_buffer(b"\0\0\0\0" + (2**30).to_bytes(4, "little") + bytes(offsets)[8:])
    array = pa.StringArray.from_buffers(3, lying, text)
    arrays = [array if i == at else column for i, column in enumerate(ROWS.columns)]
    # Arrow takes it as it is; the first look at the text would have ended the process.
    with pytest.raises(DamagedRowsError):
        decode_rows(encode_rows(pa.RecordBatch.from_arrays(arrays, schema=ROWS.schema)))


def test_a_message_of_another_kind_is_refused_before_arrow_follows_its_pointers() -> None:
    """Found by the fuzzer: Arrow verifies the table that a message names, and reads a schema."""
    value = bytearray(encode_rows(ROWS))
    # Of the first message's table: where the kind of its header stands.
    assert value[20] == 5
    value[20] = 1
    with pytest.raises(DamagedRowsError, match="must be a schema"):
        decode_rows(bytes(value))


def test_compressed_rows_are_refused_before_they_are_unpacked() -> None:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    many = pa.concat_batches([ROWS] * 2_000)
    with pa.ipc.new_stream(sink, many.schema, options=options) as writer:
        writer.write_batch(many)
    before = pa.total_allocated_bytes()
    with pytest.raises(DamagedRowsError, match="compressed"):
        decode_rows(bytes(sink.getvalue()))
    assert pa.total_allocated_bytes() - before < 100_000
    assert decode_rows(encode_rows(ROWS)).equals(ROWS)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("clicked", pa.null()), ("clicked", pa.list_(pa.int8(), 0)), ("snapshot_offset", pa.int32()),
     ("request_id", pa.dictionary(pa.int32(), pa.string()))],
    ids=str,
)  # fmt: skip
def test_types_that_no_sample_has_are_refused(name: str, kind: pa.DataType) -> None:
    at = ROWS.schema.get_field_index(name)
    foreign = ROWS.set_column(at, pa.field(name, kind), pa.nulls(ROWS.num_rows, kind))
    with pytest.raises(DamagedRowsError, match=f"column '{name}'"):
        decode_rows(encode_rows(foreign))


def test_a_column_that_is_there_twice_is_refused() -> None:
    with pytest.raises(DamagedRowsError, match="'clicked' is there twice"):
        decode_rows(encode_rows(ROWS.append_column("clicked", ROWS.column("clicked"))))


def test_offsets_that_are_null_are_refused() -> None:
    at = ROWS.schema.get_field_index("snapshot_offset")
    nulls = ROWS.set_column(at, pa.field("snapshot_offset", pa.int64()), pa.nulls(3, pa.int64()))
    with pytest.raises(ValueError, match="null"):
        new_rows(decode_rows(encode_rows(nulls)), Interval(3, 5, 7), 3)


def directory_of(folder: Path, **file: Any) -> Path:
    """A sink's directory of one file, whose manifest says ``file`` of it."""
    directory = folder / "samples"
    manifests = directory / "_manifests" / "p0"
    manifests.mkdir(parents=True)
    path = directory / "a.parquet"
    pq.write_table(pa.table(ROWS), path)
    said = {"path": "a.parquet", "bytes": path.stat().st_size, "sha256": "0" * 64, "rows": 3}
    manifest = {
        "partition": 0, "from": 3, "to": 5, "arrival_ms": 1, "samples_offset": 0, "is_end": False,
        "rows": 3, "files": [said | file], "v": 1,
    }  # fmt: skip
    (manifests / f"{3:020d}.json").write_bytes(orjson.dumps(manifest))
    return directory


def test_a_good_directory_is_read(tmp_path: Path) -> None:
    assert Samples(directory_of(tmp_path)).table().num_rows == 3


@pytest.mark.parametrize(
    "path",
    ["../outside.parquet", "/etc/passwd", "day=1/../../outside.parquet", "a\0b", "..\\outside", "",
     "x" * 2_000, "."],
    ids=lambda path: repr(path)[:20],
)  # fmt: skip
def test_a_file_outside_of_its_directory_is_not_opened(tmp_path: Path, path: str) -> None:
    pq.write_table(pa.table(ROWS), tmp_path / "outside.parquet")
    size = (tmp_path / "outside.parquet").stat().st_size
    with pytest.raises(SampleFilesError, match=r"0000003\.json: files|not a file"):
        Samples(directory_of(tmp_path, path=path, bytes=size)).table()


def link_out(path: Path) -> None:
    path.rename(path.parents[1] / "outside.parquet")
    path.symlink_to(path.parents[1] / "outside.parquet")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "named"), [(link_out, "leads out of"), (pipe, "not a file")], ids=["link", "pipe"]
)
def test_a_link_out_or_a_pipe_is_not_opened(
    tmp_path: Path, damage: Callable[[Path], None], named: str
) -> None:
    directory = directory_of(tmp_path)
    damage(directory / "a.parquet")
    with pytest.raises(SampleFilesError, match=named):
        Samples(directory).table()


@pytest.mark.parametrize("claim", [{"bytes": 2**62}, {"bytes": -1}, {"rows": 2**62}, {"rows": -3}])
def test_a_size_that_is_claimed_is_held_against_the_file(
    tmp_path: Path, claim: dict[str, int]
) -> None:
    with pytest.raises(SampleFilesError):
        Samples(directory_of(tmp_path, **claim)).table()


def test_a_name_that_no_file_system_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SampleFilesError, match="too long"):
        Samples(directory_of(tmp_path, path="a" * 300)).table()


def test_a_manifest_that_is_no_file_of_a_manifests_size_is_not_read(tmp_path: Path) -> None:
    directory = directory_of(tmp_path)
    (path,) = directory.rglob("*.json")
    with path.open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(SampleFilesError, match="at most"):
        Samples(directory).table()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SampleFilesError, match="at most"):
        Samples(directory).table()


def test_folders_that_are_no_partitions_are_passed_over(tmp_path: Path) -> None:
    directory = directory_of(tmp_path)
    (directory / "_manifests" / "p²").mkdir()
    assert partitions_in(directory) == [0]


def test_parquet_of_foreign_types_is_refused(tmp_path: Path) -> None:
    directory = directory_of(tmp_path)
    foreign = pa.table(ROWS).append_column("x", pa.array([[1]] * 3))
    pq.write_table(foreign, directory / "a.parquet")
    (path,) = directory.rglob("*.json")
    size = (directory / "a.parquet").stat().st_size
    manifest = orjson.loads(path.read_bytes())
    manifest["files"][0]["bytes"] = size
    path.write_bytes(orjson.dumps(manifest))
    with pytest.raises(SampleFilesError, match="column 'x': list"):
        Samples(directory).table()


def test_the_schema_of_a_log_is_one_that_samples_can_have() -> None:
    assert decode_rows(encode_rows(ROWS)).schema.equals(schema_of(("ctr",)))
