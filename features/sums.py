"""Window sums at a moment, decoded from the store's bytes: integers only.

A read decodes many entities of a view at once: the values are laid out as one buffer, and the age
of every slot's tile follows from its entity's head.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Selection:
    """Sums of one view that are wanted together.

    Attributes:
        columns: of each: where it is among the cells of all rings; of one that several cells add
            up to, of the first.
        added: those that several cells, side by side, add up to: which, and their columns.
    """

    columns: NDArray[np.intp]
    added: list[tuple[int, slice]]

    @classmethod
    def of(
        cls, view: View, needs: Iterable[tuple[Measure, Window]], *, by_position: bool
    ) -> Selection:
        """Of measures over windows, or of their position buckets, one after the other."""
        starts = np.cumsum([0, *(len(ring.cells) for ring in view.rings)]).tolist()
        columns: list[int] = []
        added: list[tuple[int, slice]] = []
        for measure, window in needs:
            ring, cells = view.place(measure, window)
            own = [starts[ring] + cell for cell in cells]
            if by_position and len(own) != POSITION_BUCKETS:
                raise ValueError(f"{measure.definition} is not kept by position")
            if by_position:
                columns += own
                continue
            if len(own) > 1:
                added.append((len(columns), slice(own[0], own[-1] + 1)))
            columns.append(own[0])
        return cls(np.array(columns, np.intp), added)


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
        # Everything is 32-bit words, a sum two of them. A float64 adds such words up exactly, and
        # its matrix product is the fastest there is.
        words = np.frombuffer(stored, ">u4").astype(np.float64)
        self._words = words.reshape(self.n, view.size // _WORD_BYTES)
        newest = self._words[:, : len(view.rings)].astype(np.int64) - 1
        ahead = newest - as_of_ms // view.tile_ms
        furthest = ahead.max(axis=0, initial=-1)
        if (furthest > view.most_ahead).any():
            at = int(np.argmax(furthest - view.most_ahead))
            raise AsOfTooOldError(
                f"as_of {as_of_ms} is {furthest[at]} tiles of {view.tile_ms[at]} ms behind the "
                f"newest event of a {view.entity.name}"
            )
        # Of each entity and ring: the slot of the newest tile; and of the tiles that are in the
        # window how far the youngest, and the first that is too old, are behind the newest.
        self._newest, self._slot = newest, newest % view.lengths
        self._youngest = np.maximum(ahead, 0)
        self._too_old = np.maximum(ahead + view.tiles, 0)
        self._sums: list[tuple[Ints, Ints] | None] = [None] * len(view.rings)
        self._all: Ints | None = None
        # Words are unsigned: they add up to zero only where all of them are.
        self.seen = np.asarray(self._ring_sums(view.longest)[1].any(axis=1), np.bool_)

    def total(self, measure: Measure, window: Window) -> Ints:
        """Sum of a measure over a window, ``(n,) int64``."""
        index, cells = self.view.place(measure, window)
        sums = self._ring_sums(index)[0]
        if len(cells) == 1:
            return sums[:, cells[0]]
        added: Ints = sums[:, cells].sum(axis=1)
        return added

    def totals(self, selection: Selection) -> Ints:
        """Sums that are wanted together, ``(n, columns) int64``."""
        if self._all is None:
            rings = [self._ring_sums(index)[0] for index in range(len(self.view.rings))]
            self._all = np.concatenate(rings, axis=1)
        found: Ints = self._all.take(selection.columns, axis=1)
        for at, columns in selection.added:
            found[:, at] = self._all[:, columns].sum(axis=1)
        return found

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
        counted = self._slots(ring)[:, :, words] != 0.0
        filled = counted.any(axis=2) & self._inside(index)
        newest = self._newest[:, index]
        ages = ring.ages[self._slot[:, index]]
        oldest = np.where(filled, ages, -1).max(axis=1, initial=-1)
        return np.where(oldest < 0, -1, (newest - oldest) * window.tile_ms)

    def _inside(self, index: int) -> NDArray[np.bool_]:
        """Whether each slot is in the window, ``(n, length)``."""
        ages = self.view.rings[index].ages
        youngest = self._youngest[:, index].astype(ages.dtype)
        too_old = self._too_old[:, index].astype(ages.dtype)
        ages = ages[self._slot[:, index]]
        inside: NDArray[np.bool_] = ages < too_old[:, None]
        if youngest.any():
            inside &= ages >= youngest[:, None]
        return inside

    def _slots(self, ring: Ring) -> NDArray[np.float64]:
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
            inside = self._inside(index).astype(np.float64)
            words = np.matmul(inside[:, None, :], self._slots(ring))[:, 0].astype(np.int64)
            wide = 2 * ring.n_sums
            sums = words
            if wide:
                high, low = words[:, 0:wide:2], words[:, 1:wide:2]
                sums = np.concatenate([(high << 32) + low, words[:, wide:]], axis=1)
            found = self._sums[index] = (sums, words)
        return found
