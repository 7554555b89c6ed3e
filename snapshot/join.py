"""The join itself: waiting labels × a block of final snapshots → one row of labels per shown item.

Pure: no clock, no socket; the result follows from the labels and the snapshots alone, whatever
the batches, merges and evictions in between. Holding labels is ``label_memory.py``'s, deciding
which snapshots are final is the joiner's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tenuto.snapshot.label_memory import LabelMemory
from tenuto.snapshot.labels import Label, SampleStream
from tenuto.snapshot.segments import OFFSET, POSITION, TS, Column, Ints

IMPRESSED = "impressed"
IMPRESSION_DELAY_MS = "impression_delay_ms"

_DELAY = "@delay"
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class SnapshotBlock:
    """Consecutive final snapshots of one partition, in offset order.

    Args:
        request_ids: (k,) of the snapshots; ``request_ts_ms``: (k,) int64.
        row_starts: (k + 1,) int64 from 0: rows ``row_starts[i]:row_starts[i + 1]`` are those of
            snapshot i, one per shown item, in shown order.
        item_ids: (rows,) Arrow strings without nulls.
        positions: (rows,) int32, −1 where missing.

    Raises:
        ValueError: the columns' lengths do not agree.
    """

    request_ids: Sequence[str]
    request_ts_ms: NDArray[np.int64]
    row_starts: NDArray[np.int64]
    item_ids: pa.Array
    positions: NDArray[np.int32]

    def __post_init__(self) -> None:
        snapshots, rows = len(self.request_ids), len(self.item_ids)
        if len(self.request_ts_ms) != snapshots or len(self.row_starts) != snapshots + 1:
            raise ValueError(
                f"block of {snapshots} snapshots: {len(self.request_ts_ms)} request_ts_ms and "
                f"{len(self.row_starts)} row_starts: must be k and k + 1"
            )
        if len(self.positions) != rows or self.row_starts[0] != 0 or self.row_starts[-1] != rows:
            raise ValueError(
                f"block of {rows} rows: {len(self.positions)} positions, row_starts from "
                f"{self.row_starts[0]} to {self.row_starts[-1]}: must cover all rows"
            )


@dataclass(frozen=True)
class JoinedLabels:
    """The label columns of a block's rows, typed and ordered as :func:`label_schema` says.

    ``impressed`` (rows,) is 0 for rows that nobody saw: their labels are 0 or null.
    """

    columns: dict[str, pa.Array]

    @property
    def impressed(self) -> NDArray[np.uint8]:
        """(rows,) 1 where the item was seen within the impression window."""
        seen: NDArray[np.uint8] = self.columns[IMPRESSED].to_numpy()
        return seen


def label_schema(stream: SampleStream) -> pa.Schema:
    """Names and types of the joined columns, in order; all but the 0/1 columns can be null."""
    fields = [
        pa.field(IMPRESSED, pa.uint8(), nullable=False),
        pa.field(IMPRESSION_DELAY_MS, pa.int64()),
    ]
    for label in stream.labels:
        happened = label.kind == "first"
        fields.append(
            pa.field(label.name, pa.uint8() if happened else pa.int64(), nullable=not happened)
        )
        if label.delay:
            fields.append(pa.field(label.delay, pa.int64()))
        for name in label.carry:
            declared = label.event.all_fields[name].type
            fields.append(pa.field(name, _ARROW_TYPES[declared]))
    return pa.schema(fields)


def join(memory: LabelMemory, block: SnapshotBlock) -> JoinedLabels:
    """Fix the labels of every row of a block of final snapshots.

    A label belongs to the rows of each snapshot of its request that shows its item, in the slot of
    its position or else the item's first. A row's impression is its earliest event that implies
    one within the impression window of the request; labels count from there to the end of their
    own window, both ends included.
    """
    stream, size = memory.stream, len(block.item_ids)
    request_ids = pa.array(block.request_ids, type=pa.string())
    slots = _Slots(block)
    matched: dict[str, tuple[Ints, dict[str, Column]]] = {}
    seen_ts = np.full(size, _NEVER, dtype=np.int64)
    for event, found in memory.find(request_ids, block.request_ts_ms).items():
        rows = slots.of(found.snapshots, found.item_ids, found.columns[POSITION])
        shown = rows >= 0
        found.mark_shown(shown)
        rows = rows[shown]
        columns = {name: column[shown] for name, column in found.columns.items()}
        matched[event] = rows, columns
        if memory.needs[event].implies_impression:
            age_ms = columns[TS] - block.request_ts_ms[found.snapshots[shown]]
            near = age_ms <= stream.impression_window_ms
            np.minimum.at(seen_ts, rows[near], columns[TS][near])

    impressed = seen_ts != _NEVER
    requests_ts = np.repeat(block.request_ts_ms, np.diff(block.row_starts))
    out = [impressed.astype(np.uint8), np.ma.array(seen_ts - requests_ts, mask=~impressed)]
    for label in stream.labels:
        rows, columns = matched[label.event.name]
        delay_ms = columns[TS] - seen_ts[rows]
        counts = (delay_ms >= 0) & (delay_ms <= label.window_ms)
        if label.where is not None:
            counts &= columns[label.where].astype(bool)
        columns = {name: column[counts] for name, column in columns.items()}
        columns[_DELAY] = delay_ms[counts]
        out.extend(_columns_of(label, rows[counts], columns, size))
    schema = label_schema(stream)
    return JoinedLabels(
        {
            field.name: pa.array(column, type=field.type)
            for field, column in zip(schema, out, strict=True)
        }
    )


_ARROW_TYPES = {int: pa.int64(), bool: pa.bool_(), float: pa.float64()}


class _Slots:
    """Where in a block an item was shown: by (snapshot, item) and, when shown twice, position."""

    def __init__(self, block: SnapshotBlock) -> None:
        coded = block.item_ids.cast(pa.string()).dictionary_encode()
        self._items = coded.dictionary
        snapshots = np.repeat(np.arange(len(block.request_ids)), np.diff(block.row_starts))
        keys = self._keys(snapshots, coded.indices.to_numpy())
        # The first row of each (snapshot, item), and a dense number for each.
        self._distinct, self._first_rows, pairs = np.unique(
            keys, return_index=True, return_inverse=True
        )
        shown_again = np.bincount(pairs)[pairs] > 1
        again = np.flatnonzero(shown_again & (block.positions >= 0))
        self._places, first = np.unique(
            _places(pairs[again], block.positions[again].astype(np.int64)), return_index=True
        )
        self._place_rows = again[first]

    def of(self, snapshots: Ints, item_ids: pa.ChunkedArray, positions: Column) -> Ints:
        """Rows (n,) of the block that the labels belong to, −1 where the item was not shown."""
        items = pc.fill_null(pc.index_in(item_ids, value_set=self._items), -1).to_numpy()
        keys = self._keys(snapshots, items)
        pairs, shown = _look_up(self._distinct, keys)
        shown &= items >= 0
        rows = np.full(len(keys), -1, dtype=np.int64)
        rows[shown] = self._first_rows[pairs[shown]]
        if len(self._places):
            places, placed = _look_up(self._places, _places(pairs, positions))
            # A missing position (−1) is no place.
            placed &= shown
            rows[placed] = self._place_rows[places[placed]]
        return rows

    def _keys(self, snapshots: Ints, items: NDArray[np.int32]) -> Ints:
        keys: Ints = snapshots * np.int64(len(self._items)) + items
        return keys


def _places(pairs: Ints, positions: Column) -> Ints:
    places: Ints = (pairs.astype(np.int64) << 32) | positions
    return places


def _look_up(haystack: Ints, keys: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Index of each key in the sorted, distinct haystack, and whether it is there."""
    if len(haystack) == 0:
        return np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=bool)
    at = np.minimum(np.searchsorted(haystack, keys), len(haystack) - 1)
    return at, haystack[at] == keys


def _columns_of(
    label: Label, rows: Ints, columns: dict[str, Column], size: int
) -> list[Column | np.ma.MaskedArray]:
    """The label's columns for ``size`` rows, from the records that count for it."""
    if label.kind == "total":
        return [_sum_distinct(rows, columns, _field_of(label), size)]
    keys, names = [columns[TS]], [*([_DELAY] if label.delay else []), *label.carry]
    if label.kind == "longest":
        keys.insert(0, -columns[_field_of(label)])
        names.insert(0, _field_of(label))
    if label.carry:
        keys.append(columns[OFFSET])
    chosen = _smallest(rows, keys, size)
    rows = rows[chosen]
    happened = np.zeros(size, dtype=bool)
    happened[rows] = True
    out: list[Column | np.ma.MaskedArray] = [happened] if label.kind == "first" else []
    for name in names:
        values = np.zeros(size, dtype=columns[name].dtype)
        values[rows] = columns[name][chosen]
        out.append(np.ma.array(values, mask=~happened))
    return out


def _field_of(label: Label) -> str:
    if label.field is None:
        raise ValueError(f"label {label.name!r}: a {label.kind} needs a field")
    return label.field


def _smallest(rows: Ints, keys: list[Column], size: int) -> Ints:
    """Indices of the records that are their row's smallest by (keys[0], keys[1], …)."""
    alive = np.arange(len(rows))
    for key in keys:
        best = np.full(size, _NEVER, dtype=np.int64)
        np.minimum.at(best, rows[alive], key[alive])
        alive = alive[key[alive] == best[rows[alive]]]
    return alive


def _sum_distinct(
    rows: Ints, columns: dict[str, Column], field: str, size: int
) -> np.ma.MaskedArray:
    """Sum per row over distinct (ts, position, value): a client's repetition counts once."""
    keys = (columns[field], columns[POSITION], columns[TS], rows)
    order = np.lexsort(keys)
    new = np.zeros(len(order), dtype=bool)
    new[:1] = True
    for key in keys:
        new[1:] |= np.diff(key[order]) != 0
    distinct = order[new]
    totals = np.zeros(size, dtype=np.int64)
    np.add.at(totals, rows[distinct], columns[field][distinct])
    some = np.zeros(size, dtype=bool)
    some[rows] = True
    return np.ma.array(totals, mask=~some)
