"""From a batch's columns to what each entity's tiles gain: pure, integer, independent of order.

One sort per view serves all of its windows, because tile sizes divide one another. What comes out
is already the bytes that the store's script reads; how they are sent is in ``chunks.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenuto.features.entities import Measure
from tenuto.features.layout import Cell, Layout, Ring, View
from tenuto.features.positions import POSITION_BUCKETS, position_bucket

Columns = Mapping[str, Any]
"""A batch's accepted records: ``list[str]`` for ids and queries, int64 or bool arrays else;
``ts`` int64 epoch ms, ``position`` int64 with -1 where missing."""

Ints = NDArray[np.int64]

# Of an entity: its view (u8) and how many bytes follow (u32); of a ring: how many tiles (u16).
_ENTITY_BYTES, _RING_BYTES = 5, 2
_MAX_CODE = 2**62
_MAX_COUNT = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Deltas:
    """What a batch adds, entity by entity.

    Attributes:
        keys: of the entities, without the store's prefix; all different.
        packed: per entity its view's index, the bytes that follow, and per ring the number of
            tiles, then each tile (ascending) and its cells; big-endian, cells as they are stored.
    """

    keys: list[bytes]
    packed: list[bytes]

    def __len__(self) -> int:
        return len(self.keys)


def entity_key(view: View, parts: Sequence[str]) -> bytes:
    """Key of an entity inside the store: the view's index, then its id.

    The parts of a composed key are prefixed with their byte length, all but the last, so that no
    two different entities share a key.
    """
    encoded = [part.encode() for part in parts]
    head = b"".join(b"%d:%s" % (len(part), part) for part in encoded[:-1])
    return b"%d:%s%s" % (view.index, head, encoded[-1] if encoded else b"")


class Aggregator:
    """Turns accepted records of one event stream into deltas, as a layout wants them."""

    def __init__(self, layout: Layout) -> None:
        self._fed: dict[str, list[_FedView]] = {}
        for view in layout.views:
            events = {cell.measure.event.name for ring in view.rings for cell in ring.cells}
            for event in events:
                self._fed.setdefault(event, []).append(_FedView(view, event))

    def deltas(self, event: str, columns: Columns) -> Deltas:
        """What a batch of accepted records of ``event`` adds to the entities that it touches."""
        keys: list[bytes] = []
        packed: list[bytes] = []
        if len(columns["ts"]):
            batch = _Batch(columns)
            for fed in self._fed.get(event, ()):
                fed.add(batch, keys, packed)
        return Deltas(keys, packed)


class _Batch:
    """Columns of one batch and what several views need of them, computed once."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.ts: Ints = columns["ts"]
        self._codes: dict[str, tuple[Ints, list[bytes]]] = {}
        self._values: dict[tuple[str | None, str | None], Ints | None] = {}
        self._buckets: Ints | None = None

    def codes(self, field: str) -> tuple[Ints, list[bytes]]:
        """Dictionary codes of a string column and the encoded strings that they stand for."""
        if field not in self._codes:
            values = self.columns[field]
            table = {value: code for code, value in enumerate(dict.fromkeys(values))}
            coded = np.fromiter(map(table.__getitem__, values), np.int64, len(values))
            self._codes[field] = (coded, [value.encode() for value in table])
        return self._codes[field]

    def values(self, measure: Measure) -> Ints | None:
        """What each record adds to a measure, whatever its position; None where all add one."""
        key = (measure.field, measure.where)
        if key not in self._values:
            columns, where = self.columns, measure.where
            value: Ints | None = None if measure.field is None else columns[measure.field]
            if where is not None:
                counts = columns["position"] >= 0 if where == "position" else columns[where]
                value = np.where(counts, 1 if value is None else value, 0)
            self._values[key] = value
        return self._values[key]

    def buckets(self) -> Ints:
        """Position bucket of each record."""
        if self._buckets is None:
            self._buckets = position_bucket(self.columns["position"]).astype(np.int64)
        return self._buckets


class _FedView:
    """One view as one event stream feeds it."""

    def __init__(self, view: View, event: str) -> None:
        self.view = view
        self.key_head = b"%d:" % view.index
        self.finest_ms = min(ring.window.tile_ms for ring in view.rings)
        self.rings = [_FedRing(ring, event) for ring in view.rings]
        cells = {cell: None for ring in self.rings for cell in ring.fed}
        self.cells = {cell: row for row, cell in enumerate(cells)}

    def add(self, batch: _Batch, keys: list[bytes], packed: list[bytes]) -> None:
        """Append the entities that the batch touches, and what they gain."""
        tiles = batch.ts // self.finest_ms
        first_tile = int(tiles.min())
        span = int(tiles.max()) - first_tile + 1
        codes = self._codes(batch, span)
        order = np.argsort(codes * span + (tiles - first_tile), kind="stable")
        codes, tiles = codes[order], tiles[order]
        is_new = np.ones(len(order), bool)
        np.not_equal(codes[1:], codes[:-1], out=is_new[1:])
        entity_starts = np.flatnonzero(is_new)
        is_new[1:] |= tiles[1:] != tiles[:-1]
        # From here on a row is what one entity gains in one of the finest tiles.
        starts = np.flatnonzero(is_new)
        sums = self._sums(batch, order, starts)
        firsts = np.searchsorted(starts, entity_starts)
        ts = tiles[starts] * self.finest_ms
        keys += self._keys(batch, order[entity_starts])
        packed += _pack(self.view.index, [r.rows(self.cells, sums, ts, firsts) for r in self.rings])

    def _codes(self, batch: _Batch, span: int) -> Ints:
        """A number for each record's entity, so small that it can be multiplied by ``span``."""
        fields = self.view.entity.key
        if not fields:
            return np.zeros(len(batch.ts), np.int64)
        combined, names = batch.codes(fields[0])
        size = len(names)
        for field in fields[1:]:
            codes, names = batch.codes(field)
            if size * len(names) * span > _MAX_CODE:
                distinct, combined = np.unique(combined, return_inverse=True)
                size = len(distinct)
            combined = combined * len(names) + codes
            size *= len(names)
        return combined

    def _keys(self, batch: _Batch, rows: Ints) -> list[bytes]:
        """Keys of the entities of these records, as ``entity_key`` makes them."""
        fields = self.view.entity.key
        keys = [self.key_head] * len(rows)
        for field in fields:
            codes, names = batch.codes(field)
            if field != fields[-1]:
                names = [b"%d:%s" % (len(name), name) for name in names]
            keys = [key + names[c] for key, c in zip(keys, codes[rows].tolist(), strict=True)]
        return keys

    def _sums(self, batch: _Batch, order: Ints, starts: Ints) -> Ints:
        """What each cell gains in each of the finest tiles, ``(cells, tiles) int64``."""
        sums = np.empty((len(self.cells), len(starts)), np.int64)
        sizes = np.diff(starts, append=len(order))
        by_bucket: dict[Measure, Ints] = {}
        for cell, row in self.cells.items():
            measure = cell.measure
            values = batch.values(measure)
            if cell.bucket is not None:
                if measure not in by_bucket:
                    tile = np.repeat(np.arange(len(starts)), sizes)
                    place = tile * POSITION_BUCKETS + batch.buckets()[order]
                    counts = place if values is None else place[values[order] != 0]
                    by_bucket[measure] = np.bincount(
                        counts, minlength=len(starts) * POSITION_BUCKETS
                    ).reshape(len(starts), POSITION_BUCKETS)
                sums[row] = by_bucket[measure][:, cell.bucket]
            elif values is None:
                sums[row] = sizes
            else:
                np.add.reduceat(values[order], starts, out=sums[row])
        return sums


class _FedRing:
    """One ring of a view as one event stream feeds it."""

    def __init__(self, ring: Ring, event: str) -> None:
        self.ring = ring
        self.record = np.dtype([("tile", ">u4"), *ring.dtype.descr])
        self.named = {
            cell: name
            for cell, name in zip(ring.cells, ring.cell_names, strict=True)
            if cell.measure.event.name == event
        }
        self.fed = list(self.named)

    def rows(
        self, cells: Mapping[Cell, int], sums: Ints, ts: Ints, firsts: Ints
    ) -> tuple[NDArray[Any], Ints]:
        """Tiles with their cells, packed, and how many of them each entity has.

        Args:
            cells: row of each cell in ``sums``.
            sums: ``(cells, tiles)`` of the finest tiles.
            ts: of the finest tiles, ascending within an entity.
            firsts: index of each entity's first.
        """
        length = self.ring.length
        tiles = ts // self.ring.window.tile_ms
        is_new = np.ones(len(tiles), bool)
        np.not_equal(tiles[1:], tiles[:-1], out=is_new[1:])
        is_new[firsts] = True
        starts = np.flatnonzero(is_new)
        if len(starts) < len(tiles):
            sums, tiles = np.add.reduceat(sums, starts, axis=1), tiles[starts]
            firsts = np.searchsorted(starts, firsts)
        counts = np.diff(firsts, append=len(tiles))
        if counts.max() > 1:
            # What falls out with the entity's own newest tile is not even sent.
            newest = np.repeat(tiles[firsts + counts - 1], counts)
            stays = tiles > newest - length
            if not stays.all():
                counts = np.add.reduceat(stays.astype(np.int64), firsts)
                sums, tiles = sums[:, stays], tiles[stays]
        rows = np.zeros(len(tiles), self.record)
        rows["tile"] = tiles
        for cell, name in self.named.items():
            values = sums[cells[cell]]
            rows[name] = values if cell.is_sum else np.minimum(values, _MAX_COUNT)
        return rows, counts


def _pack(view: int, rings: Sequence[tuple[NDArray[Any], Ints]]) -> list[bytes]:
    """Each entity's bytes, as ``Deltas.packed`` has them."""
    sizes = [_RING_BYTES + rows.itemsize * counts for rows, counts in rings]
    lengths: Ints = np.sum(sizes, axis=0, dtype=np.int64)
    ends: Ints = np.cumsum(lengths + _ENTITY_BYTES)
    starts: Ints = ends - lengths - _ENTITY_BYTES
    buffer = np.empty(int(ends[-1]), np.uint8)
    buffer[starts] = view
    _put(buffer, starts + 1, lengths.astype(">u4"))
    at = starts + _ENTITY_BYTES
    for (rows, counts), size in zip(rings, sizes, strict=True):
        _put(buffer, at, counts.astype(">u2"))
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        _put(buffer, np.repeat(at + _RING_BYTES, counts) + within * rows.itemsize, rows)
        at = at + size
    whole = buffer.tobytes()
    return [whole[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]


def _put(buffer: NDArray[np.uint8], at: Ints, rows: NDArray[Any]) -> None:
    """Write the bytes of rows to these places."""
    width = rows.itemsize
    buffer[at[:, None] + np.arange(width)] = rows.view(np.uint8).reshape(len(rows), width)
