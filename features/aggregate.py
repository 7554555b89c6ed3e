"""From a batch's columns to what each entity's tiles gain: pure, integer, independent of order.

One sort per view serves all of its windows, because tile sizes divide one another.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenuto.features.entities import Measure
from tenuto.features.layout import Layout, Ring, View
from tenuto.features.positions import position_bucket

Columns = Mapping[str, Any]
"""A batch's accepted records: ``list[str]`` for ids and queries, int64 or bool arrays else;
``ts`` int64 epoch ms, ``position`` int64 with -1 where missing."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one entity gains: its key (without the store's prefix) and the packed tiles."""

    key: bytes
    packed: bytes


def entity_key(view: View, parts: Sequence[str]) -> bytes:
    """Key of an entity inside the store: the view's index, then its id.

    The parts of a composed key are prefixed with their byte length, all but the last, so that no
    two different entities share a key.
    """
    encoded = [part.encode() for part in parts]
    head = b"".join(b"%d:%s" % (len(part), part) for part in encoded[:-1])
    return b"%d:%s%s" % (view.index, head, encoded[-1] if encoded else b"")


def entity_keys(view: View, parts: Sequence[str | Sequence[str]], n: int) -> list[bytes]:
    """:func:`entity_key` of ``n`` entities whose parts are given once, or one for each.

    A part in the place of a list holds for all of them.
    """
    *heads, last = parts
    if all(isinstance(head, str) for head in heads) and not isinstance(last, str):
        # What reads do by the hundred: only the last part differs.
        common = entity_key(view, [*(str(head) for head in heads), ""])
        return [common + part.encode() for part in last]
    columns = [[part] * n if isinstance(part, str) else part for part in parts]
    return [entity_key(view, row) for row in zip(*columns, strict=True)]


def chunk_of(key: bytes, chunks: int) -> int:
    """Which chunk of a batch an entity belongs to: part of the stored format (§ progress)."""
    return zlib.crc32(key) % chunks


class Aggregator:
    """Turns accepted records of one event stream into deltas, as a layout wants them."""

    def __init__(self, layout: Layout) -> None:
        self._fed: dict[str, list[_FedView]] = {}
        for view in layout.views:
            events = {cell.measure.event.name for ring in view.rings for cell in ring.cells}
            for event in events:
                self._fed.setdefault(event, []).append(_FedView(view, event))

    def deltas(self, event: str, columns: Columns) -> list[Delta]:
        """What a batch of accepted records of ``event`` adds, one delta per touched entity."""
        if len(columns["ts"]) == 0:
            return []
        shared = _Shared(columns)
        return [delta for fed in self._fed.get(event, ()) for delta in fed.deltas(shared)]


class _Shared:
    """Columns of one batch and what several views need of them, computed once."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.ts: NDArray[np.int64] = columns["ts"]
        self._codes: dict[str, tuple[NDArray[np.int64], list[str]]] = {}
        self._values: dict[tuple[str | None, str | None], NDArray[np.int64]] = {}
        self._buckets: NDArray[np.int64] | None = None

    def codes(self, field: str) -> tuple[NDArray[np.int64], list[str]]:
        """Dictionary codes of a string column and the strings that they stand for."""
        if field not in self._codes:
            table: dict[str, int] = {}
            values = self.columns[field]
            coded = np.fromiter(
                (table.setdefault(value, len(table)) for value in values), np.int64, len(values)
            )
            self._codes[field] = (coded, list(table))
        return self._codes[field]

    def values(self, measure: Measure) -> NDArray[np.int64]:
        """What each record adds to a measure, whatever its position."""
        key = (measure.field, measure.where)
        if key not in self._values:
            columns = self.columns
            value: NDArray[np.int64]
            value = np.ones(len(self.ts), np.int64) if key[0] is None else columns[key[0]]
            if measure.where == "position":
                value = np.where(columns["position"] >= 0, value, 0)
            elif measure.where is not None:
                value = value * columns[measure.where]
            self._values[key] = value
        return self._values[key]

    def cell(self, measure: Measure, bucket: int | None) -> NDArray[np.int64]:
        value = self.values(measure)
        if bucket is None:
            return value
        if self._buckets is None:
            self._buckets = position_bucket(self.columns["position"])
        in_bucket: NDArray[np.bool_] = self._buckets == bucket
        return np.where(in_bucket, value, 0)


class _FedView:
    """One view as one event stream feeds it."""

    def __init__(self, view: View, event: str) -> None:
        self.view = view
        self.finest_ms = min(ring.window.tile_ms for ring in view.rings)
        self.rings: list[tuple[Ring, np.dtype[Any], list[int]]] = []
        for ring in view.rings:
            record = np.dtype([("tile", ">u4"), *ring.dtype.descr])
            fed = [i for i, cell in enumerate(ring.cells) if cell.measure.event.name == event]
            self.rings.append((ring, record, fed))

    def deltas(self, shared: _Shared) -> list[Delta]:
        codes, key_of = self._entities(shared)
        tiles = shared.ts // self.finest_ms
        first_tile = tiles.min()
        span = int(tiles.max() - first_tile) + 1
        order = np.argsort(codes * span + (tiles - first_tile), kind="stable")
        codes = codes[order]
        new_entity = np.empty(len(codes), bool)
        new_entity[0] = True
        np.not_equal(codes[1:], codes[:-1], out=new_entity[1:])
        entity_starts = np.flatnonzero(new_entity)
        packed = [self._pack(r, shared, order, new_entity, entity_starts) for r in self.rings]
        view_byte = bytes([self.view.index])
        parts = zip(*packed, strict=True)
        return [
            Delta(key_of(int(code)), view_byte + b"".join(part))
            for code, part in zip(codes[entity_starts], parts, strict=True)
        ]

    def _entities(self, shared: _Shared) -> tuple[NDArray[np.int64], Callable[[int], bytes]]:
        view, fields = self.view, self.view.entity.key
        if not fields:
            return np.zeros(len(shared.ts), np.int64), lambda code: entity_key(view, ())
        codes, names = shared.codes(fields[0])
        if len(fields) == 1:
            return codes, lambda code: entity_key(view, (names[code],))
        columns = [(codes, names)] + [shared.codes(field) for field in fields[1:]]
        combined = codes
        for more, more_names in columns[1:]:
            combined = combined * len(more_names) + more
        _, first_row, codes = np.unique(combined, return_index=True, return_inverse=True)

        def key_of(code: int) -> bytes:
            row = first_row[code]
            return entity_key(view, [names[coded[row]] for coded, names in columns])

        return codes, key_of

    def _pack(
        self,
        fed: tuple[Ring, np.dtype[Any], list[int]],
        shared: _Shared,
        order: NDArray[np.intp],
        new_entity: NDArray[np.bool_],
        entity_starts: NDArray[np.intp],
    ) -> list[bytes]:
        """Per entity, in order: the number of tiles (u16), then each tile and its cells."""
        ring, record, cells = fed
        tiles = shared.ts[order] // ring.window.tile_ms
        new_tile = new_entity.copy()
        new_tile[1:] |= tiles[1:] != tiles[:-1]
        starts = np.flatnonzero(new_tile)
        rows = np.zeros(len(starts), record)
        rows["tile"] = tiles[starts]
        for index in cells:
            cell = ring.cells[index]
            sums = np.add.reduceat(shared.cell(cell.measure, cell.bucket)[order], starts)
            rows[ring.cell_names[index]] = np.minimum(sums, 2**32 - 1) if not cell.is_sum else sums
        bounds = np.append(np.searchsorted(starts, entity_starts), len(starts)).tolist()
        buffer, width = rows.tobytes(), record.itemsize
        return [
            (high - low).to_bytes(2, "big") + buffer[low * width : high * width]
            for low, high in pairwise(bounds)
        ]
