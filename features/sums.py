"""Window sums at a moment, decoded from the store's bytes: integers only.

A read decodes many entities of a view at once: the values are laid out as one buffer and every
slot's tile follows from its entity's head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tenuto.features.entities import Measure
from tenuto.features.layout import HEAD_BYTES, Ring, View
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
        self.n = len(values)
        empty = bytes(view.size)
        self._buffer = b"".join([value or empty for value in values])
        self._windows = [self._window(ring, at, as_of_ms) for at, ring in enumerate(view.rings)]
        self._sums: list[Ints | None] = [None] * len(view.rings)
        self.seen = self._seen()

    def total(self, measure: Measure, window: Window) -> Ints:
        """Sum of a measure over a window, ``(n,) int64``."""
        index, cells = self.view.place(measure, window)
        sums = self._ring_sums(index)
        result: Ints = sums[:, cells[0]]
        for cell in cells[1:]:
            result = result + sums[:, cell]
        return result

    def by_position(self, measure: Measure, window: Window) -> list[Ints]:
        """A count over a window for each position bucket, each ``(n,) int64``."""
        index, cells = self.view.place(measure, window)
        if len(cells) != POSITION_BUCKETS:
            raise ValueError(f"{measure.definition} is not kept by position")
        sums = self._ring_sums(index)
        return [sums[:, cell] for cell in cells]

    def first_seen_ms(self, measure: Measure, window: Window) -> Ints:
        """Start of the oldest tile with such a record in the window; -1 without any, ``(n,)``."""
        index, cells = self.view.place(measure, window)
        tiles, inside = self._windows[index]
        filled = inside & (self._slots(self.view.rings[index])[:, :, cells] != 0).any(axis=2)
        oldest = np.where(filled, tiles, _NEVER).min(axis=1, initial=_NEVER)
        return np.where(oldest < _NEVER, oldest * window.tile_ms, -1)

    def _window(self, ring: Ring, at: int, as_of_ms: int) -> tuple[Ints, NDArray[np.bool_]]:
        """Tile of every slot and whether it is in the window, each ``(n, length)``."""
        heads = np.ndarray(
            (self.n, 1), ">u4", self._buffer, HEAD_BYTES * at, (self.view.size, HEAD_BYTES)
        ).astype(np.int64)
        newest = heads - 1
        now = as_of_ms // ring.window.tile_ms
        ahead = int(newest.max(initial=0)) - now
        if ahead > ring.length - ring.window.tiles - 1:
            raise AsOfTooOldError(
                f"as_of {as_of_ms} is {ahead} tiles of {ring.window.tile_ms} ms behind the newest "
                f"event of a {self.view.entity.name}"
            )
        tiles = newest - (newest - ring.slots) % ring.length
        return tiles, (heads > 0) & (tiles > now - ring.window.tiles) & (tiles <= now)

    def _slots(self, ring: Ring) -> Ints:
        """Every cell of every slot, ``(n, length, cells)``: the sums, then the counts."""
        size, step, base = self.view.size, ring.slot_bytes, ring.offset
        wide, narrow = ring.n_sums, len(ring.cells) - ring.n_sums
        slots = np.empty((self.n, ring.length, wide + narrow), np.int64)
        if wide:
            slots[:, :, :wide] = np.ndarray(
                (self.n, ring.length, wide), ">i8", self._buffer, base, (size, step, 8)
            )
        if narrow:
            slots[:, :, wide:] = np.ndarray(
                (self.n, ring.length, narrow), ">u4", self._buffer, base + 8 * wide, (size, step, 4)
            )
        return slots

    def _ring_sums(self, index: int) -> Ints:
        """Sum over the window of every cell of a ring, ``(n, cells) int64``."""
        found = self._sums[index]
        if found is None:
            inside = self._windows[index][1]
            found = np.einsum(
                "nl,nlc->nc", inside.astype(np.int64), self._slots(self.view.rings[index])
            )
            self._sums[index] = found
        return found

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
        filled = self._windows[index][1] & raw.any(axis=2)
        return np.asarray(filled.any(axis=1), np.bool_)
