"""A partition's chunks as Parquet files: a function of the log, done or not there."""

from __future__ import annotations

import json
import resource
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_log import HOUR_MS, Log, Shown, feed, logs, records_of

from tenuto.snapshot import parquet_file
from tenuto.snapshot.manifests import SampleFilesError, read_manifests
from tenuto.snapshot.parquet import PartitionFiles

EVEN = Log(tuple(Shown(offset, offset * 1000, 3) for offset in range(20)), 21)


@pytest.fixture(autouse=True, scope="module")
def small_row_groups() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_file, "ROW_GROUP_ROWS", 8)
        yield


def contents(directory: Path) -> dict[str, bytes]:
    """Every Parquet file by its path."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.parquet")
    }


def write(directory: Path, log: Log, cuts: list[int], size: int = 6) -> list[str]:
    files = PartitionFiles(directory, 0, chunk_offsets=size)
    feed(files, log.chain(cuts))
    files.close()
    return sorted(contents(directory))


def expected_chunks(log: Log, size: int) -> list[list[str]]:
    """Request ids by chunk, by the rule as it reads, one snapshot at a time."""
    chunks: list[list[str]] = []
    start, limit, hour = 0, 0, None
    for shown in log.snapshots:
        if hour is not None and (shown.offset >= limit or shown.arrival_ms // HOUR_MS != hour):
            start, hour = min(limit, shown.offset), None
        if hour is None:
            limit = start + size
            while limit <= shown.offset:
                limit += size
            hour = shown.arrival_ms // HOUR_MS
            chunks.append([])
        chunks[-1] += [f"r0-{shown.offset}"] * shown.items
    return chunks


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_files_are_the_same_whatever_the_records_the_doubles_and_the_stops(
    data: st.DataObject,
) -> None:
    log, size = data.draw(logs()), data.draw(st.integers(1, 12))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        directory, other = Path(one), Path(two)
        write(directory, log, [], size)
        records = data.draw(records_of(log))
        for stop in [*sorted(data.draw(st.lists(st.integers(0, len(records)), max_size=3))), None]:
            files = PartitionFiles(other, 0, chunk_offsets=size)
            feed(files, records, stop=stop)
            files.close()
        assert contents(directory) == contents(other)

        manifests = read_manifests(other, 0)
        chunks = [
            [
                row
                for file in manifest.files
                for row in pq.read_table(other / file.path).column("request_id").to_pylist()
            ]
            for manifest in manifests
        ]
        assert [chunk for chunk in chunks if chunk] == expected_chunks(log, size)
        assert all(chunks[:-1]), "only the end mark closes a chunk without rows"
        assert manifests[0].start == 0
        assert manifests[-1].end == log.end
        assert [manifest.is_end for manifest in manifests] == [False] * len(chunks[1:]) + [True]


def test_a_file_lies_in_the_hour_of_its_arrival_and_is_named_by_partition_and_offset(
    tmp_path: Path,
) -> None:
    before_midnight = 1_700_006_399_000
    log = Log((Shown(0, before_midnight, 1), Shown(1, before_midnight + 1000, 1)), 3)
    assert write(tmp_path, log, []) == [
        "day=2023-11-14/hour=23/p0-00000000000000000000.parquet",
        "day=2023-11-15/hour=00/p0-00000000000000000001.parquet",
    ]


def test_other_columns_in_between_make_files_of_their_own_in_one_manifest(tmp_path: Path) -> None:
    log = Log((Shown(0, 0, 2), Shown(1, 0, 1, ("ctr", "age")), Shown(2, 0, 1)), 4)
    write(tmp_path, log, [])
    (manifest,) = read_manifests(tmp_path, 0)
    assert [file.rows for file in manifest.files] == [2, 1, 1]
    assert manifest.files[1].path.endswith("p0-00000000000000000001.parquet")
    assert "age" in pq.read_schema(tmp_path / manifest.files[1].path).names


def test_a_file_keeps_the_definitions_of_its_features(tmp_path: Path) -> None:
    (path,) = write(tmp_path, Log((Shown(0, 0, 2),), 2), [])
    assert pq.read_schema(tmp_path / path).field("ctr").metadata[b"tenuto.hash"] == b"hctr"


def test_an_unfinished_chunk_is_gone_after_a_stop_and_comes_again(tmp_path: Path) -> None:
    records = EVEN.chain([2, 4, 9, 11])
    files = PartitionFiles(tmp_path, 0, chunk_offsets=6)
    feed(files, records, stop=4)
    files.close()
    assert len(contents(tmp_path)) == 1
    assert not list(tmp_path.rglob("*.unfinished"))
    files = PartitionFiles(tmp_path, 0, chunk_offsets=6)
    assert (files.position, files.samples_offset) == (6, 2)
    feed(files, records)
    files.close()
    assert files.ended
    assert contents(tmp_path).keys() == set(write(tmp_path / "again", EVEN, []))


def test_what_a_killed_sink_left_of_its_chunk_is_removed(tmp_path: Path) -> None:
    write(tmp_path, EVEN, [])
    whole = contents(tmp_path)
    last = max((tmp_path / "_manifests/p0").glob("[0-9]*.json"))
    last.rename(last.with_name(last.name + ".unfinished"))
    aside = tmp_path / "_unfinished/p0-00000000000000000020.parquet.unfinished"
    aside.write_bytes(b"half")
    other = tmp_path / "_unfinished/p1-00000000000000000020.parquet.unfinished"
    other.write_bytes(b"another partition's")
    PartitionFiles(tmp_path, 0, chunk_offsets=6).close()
    assert list(tmp_path.rglob("*.unfinished")) == [other]
    assert len(contents(tmp_path)) == len(whole) - 1
    write(tmp_path, EVEN, [3])
    assert contents(tmp_path) == whole


def test_a_full_disk_is_an_error_and_nothing_half_done_counts(tmp_path: Path) -> None:
    big = Log(tuple(Shown(offset, 0, 300) for offset in range(40)), 41)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    files = PartitionFiles(tmp_path, 0, chunk_offsets=30)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError):
            feed(files, big.chain([10, 20]))
        files.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert contents(tmp_path) == {}
    assert not list(tmp_path.rglob("*.unfinished"))
    assert read_manifests(tmp_path, 0) == []
    assert len(write(tmp_path, big, [], 30)) == 2


def test_two_processes_do_not_write_one_partition(tmp_path: Path) -> None:
    held = PartitionFiles(tmp_path, 0)
    with pytest.raises(SampleFilesError, match="another process writes this partition"):
        PartitionFiles(tmp_path, 0)
    PartitionFiles(tmp_path, 1).close()
    held.close()
    PartitionFiles(tmp_path, 0).close()


def test_a_directory_of_another_log_is_refused(tmp_path: Path) -> None:
    PartitionFiles(tmp_path, 0, source="samples a").close()
    with pytest.raises(SampleFilesError, match="holds samples of 'samples a', not of 'samples b'"):
        PartitionFiles(tmp_path, 0, source="samples b")


def test_files_without_any_manifest_are_not_taken_for_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "day=2024-01-01/hour=00/p0-00000000000000000000.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"somebody's")
    with pytest.raises(SampleFilesError, match=f"{path}: no manifest names it"):
        PartitionFiles(tmp_path, 0)
    assert path.exists()


def damage(directory: Path, kind: str) -> Path:
    """Break one thing; the path that the error must name."""
    manifests = sorted((directory / "_manifests/p0").glob("[0-9]*.json"))
    file = directory / orjson.loads(manifests[1].read_bytes())["files"][0]["path"]
    if kind == "file missing":
        file.unlink()
        return file
    if kind == "file cut short":
        file.write_bytes(file.read_bytes()[:-1])
        return file
    if kind == "manifest missing":
        manifests[1].unlink()
        return manifests[2]
    if kind == "manifest cut short":
        manifests[1].write_bytes(manifests[1].read_bytes()[:-9])
        return manifests[1]
    told = json.loads(manifests[1].read_text())
    told[kind] += 1
    manifests[1].write_text(json.dumps(told))
    return manifests[2] if kind == "to" else manifests[1]


@pytest.mark.parametrize(
    "kind",
    ["file missing", "file cut short", "manifest missing", "manifest cut short",
     "from", "to", "rows", "partition", "v"],
)  # fmt: skip
def test_a_start_names_what_is_damaged(tmp_path: Path, kind: str) -> None:
    write(tmp_path, EVEN, [])
    place = damage(tmp_path, kind)
    with pytest.raises(SampleFilesError) as told:
        PartitionFiles(tmp_path, 0)
    assert str(told.value).startswith(f"{place}: ")
    assert place.name in str(told.value)


def test_a_chunk_of_no_offsets_is_refused(tmp_path: Path) -> None:
    files = PartitionFiles(tmp_path, 0, chunk_offsets=0)
    with pytest.raises(ValueError, match="chunk of 0 snapshot offsets: must be ≥ 1"):
        feed(files, EVEN.chain([]))
    files.close()
