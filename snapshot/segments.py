"""Columns of waiting labels: one segment holds rows of one event, grouped by request.

A segment never changes, but for the marks of which rows a snapshot has met; a larger one is built
from several, as in an LSM tree. When to build, merge and drop is :mod:`label_memory`'s; what a
label means is :mod:`join`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tenuto.snapshot.string_hash import StringHash

Ints = NDArray[np.int64]
Column = NDArray[Any]
"""(rows,) int64, bool or float64."""

TS, POSITION, OFFSET = "ts", "position", "@offset"
"""Names of the columns that are not an event's own fields, and cannot be."""

UNMET, REQUEST_MET, ROW_MET = 0, 1, 2
"""Marks of a row: no snapshot yet, a snapshot of its request, one that shows its item."""


@dataclass(frozen=True, slots=True)
class PackedColumn:
    """A column in the narrowest unsigned integers that hold it, counted from its minimum."""

    dtype: np.dtype[Any]
    base: int
    values: NDArray[Any]

    @staticmethod
    def pack(column: Column) -> PackedColumn:
        """Pack int64 or bool; floats are kept as they are."""
        if column.dtype.kind == "f" or len(column) == 0:
            return PackedColumn(column.dtype, 0, column)
        base, top = int(column.min()), int(column.max())
        narrow = np.min_scalar_type(top - base)
        # Wraps around for spans beyond 63 bits, and back again in take.
        counted = column.astype(np.int64) - np.int64(base) if base else column
        return PackedColumn(column.dtype, base, counted.astype(narrow))

    def take(self, rows: Ints | slice) -> Column:
        """The column's values at ``rows``, in its own dtype."""
        values = self.values[rows]
        if self.dtype.kind == "f":
            return values
        wide = values.astype(np.int64)
        wide += self.base
        return wide.astype(self.dtype, copy=False)


@dataclass(frozen=True, slots=True)
class LabelRows:
    """Unpacked rows on their way into a segment; ids are codes into tables of distinct strings.

    ``columns`` holds :data:`TS` and whatever else the event's labels need, (rows,) each.
    """

    request_table: pa.Array
    request_hashes: NDArray[np.uint64]
    requests: Ints
    item_table: pa.Array
    items: Ints
    columns: dict[str, Column]
    marks: NDArray[np.uint8]

    @staticmethod
    def coded(
        request_ids: Sequence[pa.Array],
        item_ids: Sequence[pa.Array],
        columns: dict[str, Column],
        string_hash: StringHash,
    ) -> LabelRows:
        """Rows no snapshot has met yet; the ids in pieces, in the order of the columns."""
        requests, request_table = _distinct(request_ids)
        items, item_table = _distinct(item_ids)
        return LabelRows(
            request_table,
            string_hash(request_table),
            requests,
            item_table,
            items,
            columns,
            np.full(len(requests), UNMET, dtype=np.uint8),
        )

    @staticmethod
    def of(segments: Sequence[Segment]) -> LabelRows:
        """The rows of several segments; a request that several of them hold is held once."""
        hashes = np.concatenate([segment.hashes for segment in segments])
        request_codes, request_table = _united([segment.request_ids for segment in segments])
        item_codes, item_table = _united([segment.item_table for segment in segments])
        table_hashes = np.empty(len(request_table), dtype=np.uint64)
        table_hashes[request_codes] = hashes
        lengths = np.concatenate([np.diff(segment.row_starts) for segment in segments])
        item_bases = np.cumsum([0, *(len(segment.item_table) for segment in segments)])
        items = [
            item_codes[base:][segment.items.values]
            for segment, base in zip(segments, item_bases[:-1], strict=True)
        ]
        return LabelRows(
            request_table,
            table_hashes,
            np.repeat(request_codes, lengths),
            item_table,
            np.concatenate(items),
            {
                name: np.concatenate([segment.columns[name].take(ALL) for segment in segments])
                for name in segments[0].columns
            },
            np.concatenate([segment.marks for segment in segments]),
        )

    def where(self, keep: NDArray[np.bool_]) -> LabelRows:
        """Only the rows marked in ``keep``, and only the strings that they use."""
        requests, used_requests = _used(self.requests[keep], len(self.request_table))
        items, used_items = _used(self.items[keep], len(self.item_table))
        return LabelRows(
            self.request_table.filter(pa.array(used_requests)),
            self.request_hashes[used_requests],
            requests,
            self.item_table.filter(pa.array(used_items)),
            items,
            {name: column[keep] for name, column in self.columns.items()},
            self.marks[keep],
        )


class Segment:
    """Packed label rows of one event: requests by ascending hash, the rows of each together.

    Attributes:
        hashes: (requests,) uint64, ascending; collisions stand side by side.
        request_ids: (requests,) distinct strings.
        row_starts: (requests + 1,) first row of each request.
        item_table: distinct strings that ``items`` (rows,) counts into.
        columns: packed, (rows,) each, :data:`TS` among them.
        marks: (rows,) uint8, the only part that changes.
        min_ts, max_ts, median_ts: of its rows, epoch ms.
    """

    def __init__(self, rows: LabelRows) -> None:
        by_hash = np.argsort(rows.request_hashes, kind="stable")
        rank = np.empty(len(by_hash), dtype=np.int64)
        rank[by_hash] = np.arange(len(by_hash))
        requests = rank[rows.requests]
        order = _stable_order(requests, len(by_hash))
        counts = np.bincount(requests, minlength=len(by_hash))
        self.hashes = rows.request_hashes[by_hash]
        self.request_ids = rows.request_table.take(pa.array(by_hash))
        self.row_starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
        self.item_table = rows.item_table
        # From zero, so that the packed codes index the table themselves.
        width = np.min_scalar_type(max(len(rows.item_table) - 1, 0))
        self.items = PackedColumn(np.dtype(np.int64), 0, rows.items[order].astype(width))
        self.columns = {
            name: PackedColumn.pack(column[order]) for name, column in rows.columns.items()
        }
        self.marks = rows.marks[order]
        ts = rows.columns[TS]
        self.min_ts, self.max_ts = int(ts.min()), int(ts.max())
        self.median_ts = int(np.partition(ts, len(ts) // 2)[len(ts) // 2])

    def __len__(self) -> int:
        return len(self.marks)

    @property
    def nbytes(self) -> int:
        """Bytes held by its columns and strings."""
        packed = (self.items, *self.columns.values())
        arrays = self.hashes.nbytes + self.row_starts.nbytes + self.marks.nbytes
        strings = (self.request_ids, self.item_table)
        return (
            arrays
            + sum(column.values.nbytes for column in packed)
            + sum(int(array.get_total_buffer_size()) for array in strings)
        )

    def find(self, hashes: NDArray[np.uint64], request_ids: pa.Array) -> tuple[Ints, Ints]:
        """Rows of the given requests, as pairs (index of the request given, row of the segment).

        Candidates are found by hash; the strings are compared before any of them counts.
        """
        low = np.searchsorted(self.hashes, hashes)
        hit = self.hashes[np.minimum(low, len(self.hashes) - 1)] == hashes
        asked = np.flatnonzero(hit)
        if not len(asked):
            return asked, asked
        low = low[asked]
        high = np.searchsorted(self.hashes, hashes[asked], side="right")
        asked, mine = np.repeat(asked, high - low), _spans(low, high)
        same = pc.equal(
            request_ids.take(pa.array(asked)), self.request_ids.take(pa.array(mine))
        ).to_numpy(zero_copy_only=False)
        asked, mine = asked[same], mine[same]
        low, high = self.row_starts[mine].astype(np.int64), self.row_starts[mine + 1]
        return np.repeat(asked, high - low), _spans(low, high)

    def mark(self, rows: Ints, mark: int) -> None:
        """Remember what a snapshot met; a mark only rises."""
        self.marks[rows] = np.maximum(self.marks[rows], np.uint8(mark))


ALL = slice(None)


def _distinct(pieces: Sequence[pa.Array]) -> tuple[Ints, pa.Array]:
    """Codes (n,) of the strings of all pieces, and the table of distinct strings they index."""
    coded = pa.concat_arrays([piece.cast(pa.string()) for piece in pieces]).dictionary_encode()
    return coded.indices.to_numpy(), coded.dictionary


def _united(tables: Sequence[pa.Array]) -> tuple[Ints, pa.Array]:
    """As ``_distinct``, of tables that are distinct each."""
    if len(tables) == 1:
        return np.arange(len(tables[0])), tables[0]
    return _distinct(tables)


def _used(codes: Ints, table_size: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Codes into the table without its unused entries, and which entries are used (table,)."""
    used = np.bincount(codes, minlength=table_size) > 0
    return (np.cumsum(used) - 1)[codes], used


def _stable_order(codes: Ints, table_size: int) -> Ints:
    """``argsort(codes, kind="stable")``, for codes below ``table_size``.

    Small tables fit 16 bits, which numpy sorts by radix; in larger ones, that come from merges,
    its timsort finds the sorted runs of the segments merged.
    """
    narrow = codes.astype(np.min_scalar_type(max(table_size - 1, 0)))
    return np.argsort(narrow, kind="stable")


def _spans(starts: Ints, ends: Ints) -> Ints:
    """All of ``arange(start, end)`` one after the other."""
    lengths = ends - starts
    firsts = starts - (np.cumsum(lengths) - lengths)
    return np.repeat(firsts, lengths) + np.arange(lengths.sum())
