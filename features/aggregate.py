"""From a batch's columns to what each entity's tiles gain: pure, integer, independent of order.

One sort per view serves all of its windows, because tile sizes divide one another. What comes out
is already the bytes that the store's script reads; how they are sent is in ``chunks.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenuto.features.entities import Measure
from tenuto.features.layout import HEAD_BYTES, Layout, Ring, View
from tenuto.features.positions import POSITION_BUCKETS, position_bucket

Columns = Mapping[str, Any]
"""A batch's accepted records: ``list[str]`` for ids and queries, int64 or bool arrays else;
``ts`` int64 epoch ms, ``position`` int64 with -1 where missing."""

Ints = NDArray[np.int64]

# Of an entity: its view (u8) and how many bytes follow (u32); of a ring: how many tiles (u16).
_ENTITY_BYTES, _RING_BYTES = 5, 2
_MAX_COMBINED = 2**62


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
        # Fine to coarse, so that a coarse tile is the sum of finer ones; stored order may differ.
        self.by_tile = sorted(range(len(view.rings)), key=lambda at: view.rings[at].window.tile_ms)
        self.records = [
            np.dtype([("tile", ">u4"), *ring.dtype.descr]) for ring in view.rings
        ]
        self.fed = [
            [i for i, cell in enumerate(ring.cells) if cell.measure.event.name == event]
            for ring in view.rings
        ]

    def add(self, batch: _Batch, keys: list[bytes], packed: list[bytes]) -> None:
        """Append the batch's entities of this view and what they gain."""
        codes = self._codes(batch)
        tiles = batch.ts // self.finest_ms
        first_tile = int(tiles.min())
        span = int(tiles.max()) - first_tile + 1
        order = np.argsort(codes * span + (tiles - first_tile), kind="stable")
        sorted_codes = codes[order]
        new_entity = _changes(sorted_codes)
        rows = order[new_entity]
        keys += self._keys(batch, rows)
        rings = self._rings(batch, order, new_entity)
        packed += _pack(self.view, rings, len(rows))

    def _codes(self, batch: _Batch) -> Ints:
        """A number for each record's entity, small enough to be multiplied by the tiles."""
        fields = self.view.entity.key
        if not fields:
            return np.zeros(len(batch.ts), np.int64)
        columns = [batch.codes(field) for field in fields]
        combined = columns[0][0]
        for codes, names in columns[1:]:
            combined = combined * len(names) + codes
        span = int(batch.ts.max() - batch.ts.min()) // self.finest_ms + 2
        if prod(len(names) for _, names in columns) * span > _MAX_COMBINED:
            for at, (codes, names) in enumerate(columns):
                mixed = codes if at == 0 else combined * len(names) + codes
                combined = np.unique(mixed, return_inverse=True)[1].astype(np.int64)
        return combined

    def _keys(self, batch: _Batch, rows: Ints) -> list[bytes]:
        """Keys of the entities of these records, as ``entity_key`` makes them."""
        fields, head = self.view.entity.key, self.key_head
        if not fields:
            return [head] * len(rows)
        *outer, last = [batch.codes(field) for field in fields]
        codes, names = last
        keys = [head] * len(rows)
        for outer_codes, outer_names in outer:
            parts = [b"%d:%s" % (len(name), name) for name in outer_names]
            keys = [k + parts[c] for k, c in zip(keys, outer_codes[rows].tolist(), strict=True)]
        return [k + names[c] for k, c in zip(keys, codes[rows].tolist(), strict=True)]

    def _rings(self, batch: _Batch, order: Ints, new_entity: Ints) -> list[_RingRows]:
        """Per ring, in stored order, what its tiles gain."""
        entity_of = np.zeros(len(order), np.int64)
        entity_of[new_entity[1:]] = 1
        np.cumsum(entity_of, out=entity_of)
        ts = batch.ts[order]
        sums: dict[tuple[Measure, int | None], Ints] = {}
        found: dict[int, _RingRows] = {}
        for at in self.by_tile:
            ring, record = self.view.rings[at], self.records[at]
            tiles = ts // ring.window.tile_ms
            new_tile = tiles[1:] != tiles[:-1]
            new_tile |= entity_of[1:] != entity_of[:-1]
            starts = np.concatenate(([0], np.flatnonzero(new_tile) + 1))
            # From here on a row is a tile of this ring: the next ring adds up fewer.
            ...
        return [found[at] for at in range(len(self.view.rings))]
