"""Feast: from ``push`` of one row to its read, while other pushes go on."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import pandas as pd
from store import open_store

ROWS = 100


def main() -> None:
    asked = json.loads(sys.argv[1])
    views = {"item": {"keys": ["item_id"], "columns": ["impressions"]}}
    took: dict[str, list[float]] = {}
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder, asked["redis"], views)
        highest = rows_per_s(store, asked["seconds"] / 4)
        loads = {"idle": 0.0} | {f"{share:.0%} load": share for share in asked["shares"]}
        for load, share in loads.items():
            stop = threading.Event()
            other = threading.Thread(target=keep_on, args=(store, highest * share, stop))
            if share:
                other.start()
            took[load] = []
            end_s = time.perf_counter() + asked["seconds"]
            while time.perf_counter() < end_s:
                began_s = time.perf_counter()
                wrong += not probe(store, f"probe-{load}-{len(took[load])}")
                took[load].append((time.perf_counter() - began_s) * 1e3)
                time.sleep(0.01)
            stop.set()
            if share:
                other.join()
    print(json.dumps({"took_ms": took, "wrong": wrong, "rows_per_s": highest}))


def probe(store: Any, item: str) -> bool:
    """Push a row and read it; whether it was there."""
    push(store, [item])
    read = store.get_online_features(features=["item:impressions"], entity_rows=[{"item_id": item}])
    return bool(read.to_dict()["impressions"] == [1.0])


def push(store: Any, items: list[str]) -> None:
    """One count each."""
    now = datetime.now(UTC)
    store.push("item_push", pd.DataFrame({"item_id": items, "impressions": 1.0, "ts": now}))


def rows_per_s(store: Any, seconds: float) -> float:
    """How many rows one thread pushes."""
    began_s, number = time.perf_counter(), 0
    while time.perf_counter() - began_s < seconds:
        push(store, [f"item-{number + at}" for at in range(ROWS)])
        number += ROWS
    return number / (time.perf_counter() - began_s)


def keep_on(store: Any, per_s: float, stop: threading.Event) -> None:
    """Push so many rows a second until told to stop."""
    began_s, number = time.perf_counter(), 0
    while not stop.is_set():
        push(store, [f"item-{number % 50_000 + at}" for at in range(ROWS)])
        number += ROWS
        stop.wait(max(0.0, began_s + number / per_s - time.perf_counter()))


main()
