"""Planted bugs: the same application, with one thing of the platform done wrong in its workers.

Never a part of the platform: a worker whose ``TENUTO_APP`` is ``fault_mutants:app`` has the bug
that ``FAULTS_MUTANT`` names. The fault suite must catch each of them.
"""

from __future__ import annotations

import importlib
import itertools
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fault_app import app, live
from fault_inside import kind

__all__ = ["MUTANTS", "app", "live"]


def progress_before_deltas() -> None:
    """Progress is moved first, and the deltas follow."""
    scripts = importlib.import_module("tenuto.features.scripts")
    store = importlib.import_module("tenuto.features.store")
    unguarded = ("if nxt ~= start", "if batch_end", "call('SETRANGE', KEYS[1], at + 32, tail)")
    lines = scripts.APPLY.splitlines()
    kept = [line for line in lines if not line.startswith(unguarded)]
    assert len(kept) == len(lines) - 4, "the script has changed: so must this bug"
    scripts.APPLY = "\n".join(kept)

    def run(self: Any, prepared: Any) -> Any:
        entry = self.replace(prepared.slot, prepared.entry, prepared.after)
        if entry != prepared.after:
            raise store.Elsewhere(entry)
        time.sleep(0.02)
        self._apply.run(prepared.calls, 8, lambda reply: None)
        return entry

    store.Store.run = run


def chunks_by_position() -> None:
    """An entity's chunk follows from its place in the batch, not from its key."""
    store = importlib.import_module("tenuto.features.store")
    chunks = importlib.import_module("tenuto.features.chunks")
    cut = chunks.cut

    def by_position(*arguments: Any, **options: Any) -> Any:
        places = itertools.count()
        chunks.zlib = SimpleNamespace(crc32=lambda key: next(places))
        return cut(*arguments, **options)

    store.cut = by_position


def last_click_wins() -> None:
    """Of several clicks the latest is the label."""
    join = importlib.import_module("tenuto.snapshot.join")
    smallest = join._smallest

    def largest(rows: Any, keys: Any, size: int) -> Any:
        return smallest(rows, [-keys[0]] if len(keys) == 1 else keys, size)

    join._smallest = largest


def finality_by_wall_clock() -> None:
    """A snapshot is final when the machine's clock says so."""
    line = importlib.import_module("tenuto.snapshot.delay_line")

    def is_final(self: Any, placed: Any) -> bool:
        reach_ms = max(self.memory.reach_ms.values()) + self.rules.lateness_ms
        return bool(time.time() * 1_000 > placed.snapshot.request_ts + reach_ms)

    line.DelayLine.is_final = is_final


def whole_overlapping_records() -> None:
    """A record that overlaps what was read is taken whole."""
    for name in ("tenuto.streams.sink_worker", "tenuto.snapshot.sample_partition"):
        importlib.import_module(name).new_rows = lambda rows, interval, since: rows


MUTANTS: dict[str, Callable[[], None]] = {
    bug.__name__: bug
    for bug in (
        progress_before_deltas,
        chunks_by_position,
        last_click_wins,
        finality_by_wall_clock,
        whole_overlapping_records,
    )
}

if kind() and os.environ.get("FAULTS_MUTANT"):
    MUTANTS[os.environ["FAULTS_MUTANT"]]()
