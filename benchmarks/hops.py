"""Counts over hopping windows, as peers keep them, counted plainly; and what peers are asked for.

A window of five minutes that hops by ten seconds: an event counts in thirty of them. A peer tells
of each window how many keys it had and what their counts add up to, and for some keys every count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE_MS = 300_000
HOP_MS = 10_000
WATCHED = 20
"""How many keys a peer tells every count of."""


def watched(item: NDArray[np.int64]) -> list[str]:
    """Some keys, hot and cold."""
    distinct = np.unique(item)
    chosen = distinct[np.linspace(0, len(distinct) - 1, WATCHED).astype(int)]
    return [f"item-{number:08d}" for number in chosen]


def counted(
    item: NDArray[np.int64], ts_ms: NDArray[np.int64], keys: Sequence[str]
) -> dict[str, Any]:
    """The plain count of what ``Seen.tell`` of the peers tells, over all windows."""
    windows: dict[int, list[int]] = {}
    first = int(ts_ms.min()) // HOP_MS * HOP_MS - SIZE_MS + HOP_MS
    last = int(ts_ms.max()) // HOP_MS * HOP_MS
    for start in range(first, last + 1, HOP_MS):
        low, high = np.searchsorted(ts_ms, (start, start + SIZE_MS))
        windows[start] = [len(np.unique(item[low:high])), int(high - low)]
    counts: dict[str, dict[int, int]] = {}
    for key in keys:
        own = ts_ms[item == int(key.partition("-")[2])]
        tally = {start: int(np.sum((own >= start) & (own < start + SIZE_MS))) for start in windows}
        counts[key] = {start: n for start, n in tally.items() if n}
    return {"windows": windows, "counts": counts}


def agree(found: dict[str, Any], expected: dict[str, Any], until_ms: int) -> tuple[Any, Any]:
    """What a peer found and what is right, of windows that had ended by ``until_ms``."""

    def cut(counts: dict[Any, Any]) -> dict[int, Any]:
        kept = {int(start): value for start, value in counts.items()}
        return {start: kept[start] for start in sorted(kept) if start + SIZE_MS <= until_ms}

    def told(one: dict[str, Any]) -> dict[str, Any]:
        return {
            "windows": cut(one["windows"]),
            "counts": {key: cut(counts) for key, counts in sorted(one["counts"].items())},
        }

    return told(found), told(expected)
