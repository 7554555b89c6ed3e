"""What is stored: for every entity, which cells in which windows, and at which byte.

A layout follows from the declared features alone. Its hash is part of every Redis key, positions
included: a changed layout is an empty store beside the old one, built from the log by the same
code, while readers go on with the old one. Formulas are not part of it.

An entity's value is one string: for each window the head (u32, newest tile ever applied plus one,
0 for none), then each window's ring of slots, a slot holding the window's cells, big-endian as
BITFIELD wants them: sums as i64 first, then counts as u32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenuto.features.entities import Counter, Entity, Measure
from tenuto.features.positions import POSITION_BUCKETS, POSITION_EDGES
from tenuto.features.rules import TimeRules
from tenuto.features.windows import Window

FORMAT = 1
HEAD_BYTES = 4


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of a slot: a measure's sum or count, of one position bucket where it has them."""

    measure: Measure
    bucket: int | None = None

    @property
    def is_sum(self) -> bool:
        return self.measure.field is not None

    @property
    def code(self) -> str:
        """NumPy type of the number as Redis holds it."""
        return ">i8" if self.is_sum else ">u4"

    @property
    def definition(self) -> str:
        bucket = "" if self.bucket is None else f"[{self.bucket}]"
        return self.measure.definition + bucket


@dataclass(frozen=True)
class Ring:
    """The tiles of one window of one view.

    Attributes:
        offset: of its first slot, in bytes; ``slot_bytes`` is the distance of the slots.
        n_sums: how many of the cells are sums; they come first.
        ages: ``ages[h, slot]`` is how many tiles a slot is behind the newest, when that is in slot
            ``h``; ``(length, length)``, small integers.
    """

    window: Window
    cells: tuple[Cell, ...]
    length: int
    offset: int
    cell_names: tuple[str, ...] = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    slot_bytes: int = field(init=False)
    n_sums: int = field(init=False)
    ages: NDArray[np.int16 | np.int32] = field(init=False)

    def __post_init__(self) -> None:
        names = tuple(f"c{i}" for i in range(len(self.cells)))
        codes = [cell.code for cell in self.cells]
        dtype = np.dtype(list(zip(names, codes, strict=True)))
        object.__setattr__(self, "cell_names", names)
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "slot_bytes", int(dtype.itemsize))
        object.__setattr__(self, "n_sums", sum(cell.is_sum for cell in self.cells))
        small = np.int16 if self.length < 2**15 else np.int32
        slots: NDArray[Any] = np.arange(self.length).astype(small)
        object.__setattr__(self, "ages", (slots[:, None] - slots) % self.length)

    @property
    def size(self) -> int:
        return self.length * self.slot_bytes

    def words_of(self, cell: int) -> tuple[int, ...]:
        """The 32-bit words of a slot that hold a cell: two of a sum, one of a count."""
        if cell < self.n_sums:
            return 2 * cell, 2 * cell + 1
        return (self.n_sums + cell,)

    def cell_indices(self, measure: Measure) -> list[int]:
        """The cells that add up to a measure: its own, or those of its position buckets."""
        exact = [i for i, cell in enumerate(self.cells) if cell.measure == measure]
        if exact:
            return exact
        twin = Measure(measure.event, measure.field, measure.where, by_position=True)
        return [i for i, cell in enumerate(self.cells) if cell.measure == twin]


@dataclass(frozen=True)
class View:
    """All that is stored of one entity: its rings in one string value.

    Attributes:
        size: bytes of a stored value.
        longest: index of the ring of the longest window.
        tile_ms, tiles, lengths: of each ring, ``(rings,) int64``: its tile's length, how many tiles
            its window has, and how many slots it has.
        most_ahead: how many tiles its newest may be ahead of a moment that is read.
    """

    index: int
    entity: Entity
    rings: tuple[Ring, ...]
    size: int = field(init=False)
    longest: int = field(init=False)
    tile_ms: NDArray[np.int64] = field(init=False, compare=False)
    tiles: NDArray[np.int64] = field(init=False, compare=False)
    lengths: NDArray[np.int64] = field(init=False, compare=False)
    most_ahead: NDArray[np.int64] = field(init=False, compare=False)
    _places: dict[tuple[Measure, Window], tuple[int, list[int]]] = field(
        init=False, default_factory=dict, compare=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", self.rings[-1].offset + self.rings[-1].size)
        lengths = [ring.window.length_ms for ring in self.rings]
        object.__setattr__(self, "longest", lengths.index(max(lengths)))
        of_rings = {
            "tile_ms": [ring.window.tile_ms for ring in self.rings],
            "tiles": [ring.window.tiles for ring in self.rings],
            "lengths": [ring.length for ring in self.rings],
        }
        for name, numbers in of_rings.items():
            object.__setattr__(self, name, np.array(numbers, np.int64))
        object.__setattr__(self, "most_ahead", self.lengths - self.tiles - 1)

    @property
    def header_bytes(self) -> int:
        return HEAD_BYTES * len(self.rings)

    def place(self, measure: Measure, window: Window) -> tuple[int, list[int]]:
        """Where a measure over a window is: the ring's index, and the cells that add up to it."""
        found = self._places.get((measure, window))
        if found is None:
            index = next(i for i, ring in enumerate(self.rings) if ring.window == window)
            found = index, self.rings[index].cell_indices(measure)
            self._places[measure, window] = found
        return found

    @property
    def definition(self) -> dict[str, Any]:
        return {
            "entity": self.entity.name,
            "key": list(self.entity.key),
            "rings": [
                {
                    "window_ms": ring.window.length_ms,
                    "tile_ms": ring.window.tile_ms,
                    "length": ring.length,
                    "cells": [cell.definition for cell in ring.cells],
                }
                for ring in self.rings
            ],
        }


@dataclass(frozen=True)
class Layout:
    """The stored state of a set of features, under rules of time.

    Attributes:
        views: what is stored, one entity each, ordered by entity name.
        topics: names of the event streams that feed it, sorted; the order of the positions.
        rules: what counts, and how far rings reach.
        digest: 12 hex digits naming all of the above.
    """

    views: tuple[View, ...]
    topics: tuple[str, ...]
    rules: TimeRules
    digest: str

    @classmethod
    def of(cls, needs: Iterable[tuple[Counter, Window]], rules: TimeRules) -> Layout:
        """The smallest layout that holds each of these counters over its window."""
        wanted: dict[Entity, dict[Window, set[Measure]]] = {}
        for counter, window in needs:
            windows = wanted.setdefault(counter.entity, {})
            windows.setdefault(window, set()).add(counter.measure)
        names = [entity.name for entity in wanted]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two different entities are named {name!r}")
        views = tuple(
            _view(index, entity, wanted[entity], rules)
            for index, entity in enumerate(sorted(wanted, key=lambda entity: entity.name))
        )
        topics = sorted(
            {cell.measure.event.name for v in views for ring in v.rings for cell in ring.cells}
        )
        text = json.dumps(
            {
                "format": FORMAT,
                "chunks": "crc32",
                "position_edges": POSITION_EDGES,
                "rules": [rules.future_ms, rules.lateness_ms, rules.slack_ms],
                "topics": topics,
                "views": [view.definition for view in views],
            },
            sort_keys=True,
        )
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return cls(views, tuple(topics), rules, digest)

    def view(self, entity: Entity) -> View:
        return next(view for view in self.views if view.entity == entity)

    @property
    def longest_window_ms(self) -> int:
        return max((ring.window.length_ms for view in self.views for ring in view.rings), default=0)

    @property
    def history_ms(self) -> int:
        """How far back the log must reach so that every window can be built from it."""
        rules = self.rules
        coarsest = max((r.window.tile_ms for v in self.views for r in v.rings), default=0)
        tolerances = rules.slack_ms + rules.lateness_ms + rules.future_ms
        return self.longest_window_ms + coarsest + tolerances


def _view(
    index: int, entity: Entity, windows: dict[Window, set[Measure]], rules: TimeRules
) -> View:
    rings = []
    offset = HEAD_BYTES * len(windows)
    for window in sorted(windows):
        cells = _cells(windows[window])
        ring = Ring(window, cells, window.ring_length(rules), offset)
        rings.append(ring)
        offset += ring.size
    return View(index, entity, tuple(rings))


def _cells(measures: set[Measure]) -> tuple[Cell, ...]:
    # A plain count that its buckets add up to is not stored a second time.
    implied = {Measure(m.event, m.field, m.where) for m in measures if m.by_position}
    cells = []
    for measure in sorted(measures - implied, key=lambda m: (m.field is None, m.definition)):
        if measure.by_position:
            cells += [Cell(measure, bucket) for bucket in range(POSITION_BUCKETS)]
        else:
            cells.append(Cell(measure))
    return tuple(cells)
