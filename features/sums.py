"""Window sums at a moment, decoded from the store's bytes: integers only.

A read decodes many entities of a view at once: the values are laid out as one buffer, and the age
of every slot's tile follows from its entity's head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tenuto.features.entities import Measure
from tenuto.features.layout import Ring, View
from tenuto.features.positions import POSITION_BUCKETS
from tenuto.features.unavailable import StoreUnavailableError
from tenuto.features.windows import Window

Ints = NDArray[np.int64]

_WORD_BYTES = 4


class AsOfTooOldError(ValueError):
    """``as_of`` lies further behind the newest applied event than the rings reach."""


class DamagedValueError(StoreUnavailableError):
    """A stored string that is not of its layout: somebody else wrote it, or it was cut off."""


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
        DamagedValueError: a value is not of the view's size.
    """

    def __init__(self, view: View, values: Sequence[bytes | None], as_of_ms: int) -> None:
        self.view = view
        self.n = len(values)
        empty = bytes(view.size)
        stored = b"".join([value or empty for value in values])
        # Each for itself: two wrong sizes may add up to a right one, and shift what lies between.
        odd = set(map(len, filter(None, values))) - {view.size}
        if odd:
            raise DamagedValueError(
                f"redis: a value of {odd.pop()} bytes for a {view.entity.name}, must be "
                f"{view.size}: not written by these workers: delete the keys of this layout and "
                "let the workers rebuild them"
            )
        # Everything is 32-bit words, a sum two of them. Adding up words as integers wider than
        # they are is exact, and needs one conversion for all rings.
        words = np.frombuffer(stored, ">u4").astype(np.int64)
        self._words = words.reshape(self.n, view.size // _WORD_BYTES)
        self._ages = [self._age_range(ring, at, as_of_ms) for at, ring in enumerate(view.rings)]
        self._sums: list[tuple[Ints, Ints] | None] = [None] * len(view.rings)
        self._totals: dict[tuple[int, int, int], Ints] = {}
        # Words are unsigned: they add up to zero only where all of them are.
        self.seen = np.asarray(self._ring_sums(view.longest)[1].any(axis=1), np.bool_)

    def total(self, measure: Measure, window: Window) -> Ints:
        """Sum of a measure over a window, ``(n,) int64``."""
        index, cells = self.view.place(measure, window)
        key = (index, cells[0], len(cells))
        result = self._totals.get(key)
        if result is None:
            sums = self._ring_sums(index)[0]
            result = sums[:, cells[0]]
            for cell in cells[1:]:
                result = result + sums[:, cell]
            self._totals[key] = result
        return result

    def by_position(self, measure: Measure, window: Window) -> list[Ints]:
        """A count over a window for each position bucket, each ``(n,) int64``."""
        index, cells = self.view.place(measure, window)
        if len(cells) != POSITION_BUCKETS:
            raise ValueError(f"{measure.definition} is not kept by position")
        sums = self._ring_sums(index)[0]
        return [sums[:, cell] for cell in cells]

    def first_seen_ms(self, measure: Measure, window: Window) -> Ints:
        """Start of the oldest tile with such a record in the window; -1 without any, ``(n,)``."""
        index, cells = self.view.place(measure, window)
        ring = self.view.rings[index]
        words = [at for cell in cells for at in ring.words_of(cell)]
        counted = np.zeros(ring.slot_bytes // _WORD_BYTES, np.int64)
        counted[words] = 1
        filled = (np.matmul(self._slots(ring), counted) != 0) & self._inside(index)
        newest, _, _ = self._ages[index]
        oldest = np.where(filled, ring.ages[newest % ring.length], -1).max(axis=1, initial=-1)
        return np.where(oldest < 0, -1, (newest - oldest) * window.tile_ms)

    def _age_range(self, ring: Ring, at: int, as_of_ms: int) -> tuple[Ints, Ints, Ints]:
        """Newest tile of each entity, and which ages, counted from it, are in the window.

        Slots whose age is at least the second and below the third are.
        """
        newest = self._words[:, at] - 1
        now = as_of_ms // ring.window.tile_ms
        ahead = int(newest.max(initial=0)) - now
        if ahead > ring.length - ring.window.tiles - 1:
            raise AsOfTooOldError(
                f"as_of {as_of_ms} is {ahead} tiles of {ring.window.tile_ms} ms behind the newest "
                f"event of a {self.view.entity.name}"
            )
        youngest = np.maximum(newest - now, 0)
        return newest, youngest, np.maximum(newest - now + ring.window.tiles, 0)

    def _inside(self, index: int) -> NDArray[np.bool_]:
        """Whether each slot is in the window, ``(n, length)``."""
        ring = self.view.rings[index]
        newest, youngest, too_old = self._ages[index]
        ages = ring.ages[newest % ring.length]
        inside: NDArray[np.bool_] = (ages >= youngest[:, None]) & (ages < too_old[:, None])
        return inside

    def _slots(self, ring: Ring) -> Ints:
        """Every word of every slot, ``(n, length, words)``."""
        start = ring.offset // _WORD_BYTES
        words = ring.slot_bytes // _WORD_BYTES
        return self._words[:, start : start + ring.length * words].reshape(
            self.n, ring.length, words
        )

    def _ring_sums(self, index: int) -> tuple[Ints, Ints]:
        """Sums over the window of every cell of a ring, and of every word, ``(n, …) int64``."""
        found = self._sums[index]
        if found is None:
            ring = self.view.rings[index]
            inside = self._inside(index).astype(np.int64)
            words = np.matmul(inside[:, None, :], self._slots(ring))[:, 0]
            wide = 2 * ring.n_sums
            sums = words
            if wide:
                high, low = words[:, 0:wide:2], words[:, 1:wide:2]
                sums = np.concatenate([(high << 32) + low, words[:, wide:]], axis=1)
            found = self._sums[index] = (sums, words)
        return found
