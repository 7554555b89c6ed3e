"""Feast's Python SDK reads the same values of the same candidates from the same Redis."""

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


def main() -> None:
    asked = json.loads(sys.argv[1])
    # View → rows: entity keys and values, as our reader read them.
    views = json.loads(Path(asked["views"]).read_text())
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder, asked["redis"], views)
        for name, view in views.items():
            frame = pd.DataFrame(view["rows"])
            store.write_to_online_store(name, frame.assign(ts=datetime.now(UTC)))
        features = [f"{name}:{c}" for name, view in views.items() for c in view["columns"]]
        answers: dict[int, Any] = {}
        told = []
        for n in asked["candidates"]:
            rows = asked["entities"][:n]
            answers[n] = store.get_online_features(features=features, entity_rows=rows).to_dict()
            for clients in asked["clients"]:
                told.append({
                    "candidates": n, "clients": clients,
                    **timed(store, features, rows, clients, asked["seconds"]),
                })  # fmt: skip
    largest = answers[max(answers)]
    print(json.dumps({"told": told, "values": largest}))


def timed(
    store: Any, features: list[str], rows: list[Any], clients: int, seconds: float
) -> dict[str, list[float] | float]:
    """Milliseconds of each read by so many threads, for so long."""
    took_ms: list[float] = []
    end_s = time.perf_counter() + seconds

    def ask() -> None:
        while (began := time.perf_counter()) < end_s:
            store.get_online_features(features=features, entity_rows=rows).to_dict()
            took_ms.append((time.perf_counter() - began) * 1e3)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"took_ms": took_ms, "seconds": time.perf_counter() - began_s}


main()
