"""Window sums at a moment, decoded from the store's bytes: integers only.

A read decodes many entities of a view at once: the values are laid out as one buffer and every
slot's tile follows from its entity's head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tenuto.features.entities import Measure
from tenuto.features.layout import HEAD_BYTES, View
from tenuto.features.positions import POSITION_BUCKETS
from tenuto.features.windows import Window

Ints = NDArray[np.int64]

_NEVER = np.iinfo(np.int64).max


class AsOfTooOldError(ValueError):
    """``as_of`` lies further behind the newest applied event than the rings reach."""


class ViewSums:
    """Integer window sums of ``n`` entities of one view as of one moment.

    Args:
        view: what the values hold.
        values: the stored strings, ``None`` for an entity without one.
        as_of_ms: the moment; a window is the tiles in ``(tile(as_of - w), tile(as_of)]``.

    Attributes:
        seen: whether an entity has a non-empty tile in its longest window, ``(n,) bool``.

    Raises:
        AsOfTooOldError: the moment lies behind what the rings still hold.
    """

    def __init__(self, view: View, values: Sequence[bytes | None], as_of_ms: int) -> None:
        self.view = view
        self.as_of_ms = as_of_ms
        self.n = len(values)
        empty = bytes(view.size)
        self._buffer = b"".join([value or empty for value in values])
        self._tiles: dict[int, tuple[Ints, NDArray[np.bool_]]] = {}
        self._cells: dict[tuple[int, int], Ints] = {}
        for index in range(len(view.rings)):
            self._in_window(index)
        self.seen = self._seen()

    def total(self, measure: Measure, window: Window) -> Ints:
        """Sum of a measure over a window, ``(n,) int64``."""
        index = self.view.ring(window)
        cells = self.view.rings[index].cell_indices(measure)
        result = self._cell(index, cells[0])
        for cell in cells[1:]:
            result = result + self._cell(index, cell)
        return result

    def by_position(self, measure: Measure, window: Window) -> list[Ints]:
        """A count over a window for each position bucket, each ``(n,) int64``."""
        index = self.view.ring(window)
        cells = self.view.rings[index].cell_indices(measure)
        if len(cells) != POSITION_BUCKETS:
            raise ValueError(f"{measure.definition} is not kept by position")
        return [self._cell(index, cell) for cell in cells]

    def _in_window(self, index: int) -> tuple[Ints, NDArray[np.bool_]]:
        """Tile of every slot and whether it is in the window, each ``(n, length)``."""
        if index not in self._tiles:
            ring = self.view.rings[index]
            heads = np.ndarray(
                (self.n, 1), ">u4", self._buffer, HEAD_BYTES * index, (self.view.size, HEAD_BYTES)
            ).astype(np.int64)
            newest = heads - 1
            now = self.as_of_ms // ring.window.tile_ms
            if self.n and int(newest.max()) > now + ring.length - ring.window.tiles - 1:
                raise AsOfTooOldError(
                    f"as_of {self.as_of_ms} is {int(newest.max()) - now} tiles of "
                    f"{ring.window.tile_ms} ms behind the newest event of a {self.view.entity.name}"
                )
            slots = np.arange(ring.length, dtype=np.int64)
            tiles = newest - (newest - slots) % ring.length
            inside = (heads > 0) & (tiles > now - ring.window.tiles) & (tiles <= now)
            self._tiles[index] = (tiles, inside)
        return self._tiles[index]

    def _slots(self, index: int, cell: int) -> NDArray[np.int64]:
        ring = self.view.rings[index]
        dtype, offset = ring.dtype.fields[ring.cell_names[cell]][:2]  # type: ignore[index]
        return np.ndarray(
            (self.n, ring.length),
            dtype,
            self._buffer,
            ring.offset + offset,
            (self.view.size, ring.slot_bytes),
        ).astype(np.int64)

    def _cell(self, index: int, cell: int) -> Ints:
        if (index, cell) not in self._cells:
            inside = self._in_window(index)[1]
            summed: Ints = np.where(inside, self._slots(index, cell), 0).sum(axis=1)
            self._cells[index, cell] = summed
        return self._cells[index, cell]

    def first_seen_ms(self, measure: Measure, window: Window) -> Ints:
        """Start of the oldest tile with such a record in the window; -1 without any, ``(n,)``."""
        index = self.view.ring(window)
        ring = self.view.rings[index]
        tiles, inside = self._in_window(index)
        filled = np.zeros_like(inside)
        for cell in ring.cell_indices(measure):
            filled |= inside & (self._slots(index, cell) != 0)
        oldest = np.where(filled, tiles, _NEVER).min(axis=1, initial=_NEVER)
        return np.where(oldest < _NEVER, oldest * ring.window.tile_ms, -1)

    def _seen(self) -> NDArray[np.bool_]:
        index = self.view.longest
        ring = self.view.rings[index]
        raw = np.ndarray(
            (self.n, ring.length, ring.slot_bytes),
            np.uint8,
            self._buffer,
            ring.offset,
            (self.view.size, ring.slot_bytes, 1),
        )
        filled = self._in_window(index)[1] & raw.any(axis=2)
        return np.asarray(filled.any(axis=1), np.bool_)
