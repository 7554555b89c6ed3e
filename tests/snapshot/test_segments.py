"""Columns, strings and segments: what goes in comes out, whatever is merged or collides."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenuto.snapshot.segments import LabelRows, PackedColumn, Segment
from tenuto.snapshot.string_hash import hash64

INT64 = st.integers(-(2**63), 2**63 - 1)
FEW_IDS = st.sampled_from(["a", "b", "r1", "r10", "r100", "né", "x" * 40])
ROWS = st.lists(st.tuples(FEW_IDS, FEW_IDS, st.integers(0, 2**40)), min_size=1, max_size=30)


def one_hash(strings: pa.Array) -> np.ndarray:
    return np.zeros(len(strings), dtype=np.uint64)


def two_hashes(strings: pa.Array) -> np.ndarray:
    return hash64(strings) % np.uint64(2)


def rows_of(rows: list[tuple[str, str, int]], string_hash=hash64) -> LabelRows:
    requests, items, ts = zip(*rows, strict=True)
    columns = {"ts": np.array(ts, dtype=np.int64)}
    return LabelRows.coded([pa.array(requests)], [pa.array(items)], columns, string_hash)


def contents(segment: Segment, requests: list[str], string_hash=hash64) -> list[tuple]:
    asked = pa.array(requests, type=pa.string())
    snapshots, rows = segment.find(string_hash(asked), asked)
    items = segment.item_table.take(pa.array(segment.items.take(rows))).to_pylist()
    ts = segment.columns["ts"].take(rows).tolist()
    named = [requests[snapshot] for snapshot in snapshots]
    return sorted(zip(named, items, ts, strict=True))


@settings(deadline=None)
@given(st.lists(INT64, max_size=20))
def test_a_packed_column_gives_back_its_integers(values: list[int]) -> None:
    column = np.array(values, dtype=np.int64)
    np.testing.assert_array_equal(PackedColumn.pack(column).take(slice(None)), column)


@pytest.mark.parametrize("dtype", [bool, np.float64])
def test_a_packed_column_gives_back_its_dtype(dtype: type) -> None:
    column = np.array([0, 1, 1, 0], dtype=dtype)
    taken = PackedColumn.pack(column).take(np.array([1, 3]))
    assert taken.dtype == dtype
    assert taken.tolist() == [1, 0]


def test_epoch_milliseconds_of_one_hour_are_kept_in_four_bytes() -> None:
    column = 1_700_000_000_000 + np.arange(0, 3_600_000, 1000)
    assert PackedColumn.pack(column).values.itemsize == 4


@settings(deadline=None)
@given(st.lists(st.text(max_size=20)), st.integers(0, 5), st.booleans())
def test_the_hash_is_of_the_string_alone_not_of_its_array(
    strings: list[str], cut: int, large: bool
) -> None:
    array = pa.array(strings, type=pa.large_string() if large else pa.string())
    expected = [int(hash64(pa.array([string]))[0]) for string in strings]
    assert hash64(array[cut:]).tolist() == expected[cut:]


def test_the_hash_tells_similar_strings_apart() -> None:
    strings = [f"request-{number:06d}" for number in range(20_000)]
    strings += ["a" * length for length in range(1, 200)]
    strings += ["\0" * length for length in range(200)]
    assert len(np.unique(hash64(pa.array(strings)))) == len(strings)


@pytest.mark.parametrize("string_hash", [hash64, one_hash, two_hashes])
@settings(deadline=None)
@given(rows=ROWS, asked=st.lists(FEW_IDS, max_size=6))
def test_a_segment_finds_exactly_the_rows_of_the_requests_asked_for(
    string_hash, rows: list[tuple[str, str, int]], asked: list[str]
) -> None:
    segment = Segment(rows_of(rows, string_hash))
    expected = sorted(row for request in asked for row in rows if row[0] == request)
    assert contents(segment, asked, string_hash) == expected


@pytest.mark.parametrize("string_hash", [hash64, one_hash, two_hashes])
@settings(deadline=None)
@given(parts=st.lists(ROWS, min_size=1, max_size=4))
def test_merged_segments_hold_the_rows_of_all(string_hash, parts) -> None:
    merged = Segment(LabelRows.of([Segment(rows_of(part, string_hash)) for part in parts]))
    rows = [row for part in parts for row in part]
    requests = sorted({request for request, _, _ in rows})
    assert contents(merged, requests, string_hash) == sorted(rows)
    assert sorted(merged.request_ids.to_pylist()) == requests
    assert sorted(merged.item_table.to_pylist()) == sorted({item for _, item, _ in rows})


@settings(deadline=None)
@given(rows=ROWS, data=st.data())
def test_rows_and_strings_that_are_dropped_are_gone(rows, data) -> None:
    size = len(rows)
    keep = data.draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(any))
    kept = [row for row, stays in zip(rows, keep, strict=True) if stays]
    segment = Segment(rows_of(rows).where(np.array(keep)))
    assert contents(segment, sorted({row[0] for row in rows})) == sorted(kept)
    assert sorted(segment.request_ids.to_pylist()) == sorted({row[0] for row in kept})
    assert sorted(segment.item_table.to_pylist()) == sorted({row[1] for row in kept})


def test_marks_survive_a_merge_and_only_rise() -> None:
    segment = Segment(rows_of([("r1", "a", 1), ("r1", "b", 2)]))
    rows = np.array([0, 1])
    segment.mark(rows, 1)
    segment.mark(rows[:1], 2)
    segment.mark(rows, 1)
    other = Segment(rows_of([("r2", "a", 3)]))
    assert sorted(Segment(LabelRows.of([segment, other])).marks.tolist()) == [0, 1, 2]
