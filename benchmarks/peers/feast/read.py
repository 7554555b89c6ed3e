"""Feast's Python SDK reads the same values of the same candidates from the same Redis."""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import pandas as pd
from store import open_store
from timing import timed


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
            read = partial(ask, store, features, rows)
            answers[n] = read()
            for clients in asked["clients"]:
                took_ms, seconds = timed(read, clients, asked["seconds"])
                told.append({
                    "candidates": n, "clients": clients, "took_ms": took_ms, "seconds": seconds,
                })  # fmt: skip
    largest = answers[max(answers)]
    print(json.dumps({"told": told, "values": largest}))


def ask(store: Any, features: list[str], rows: list[Any]) -> Any:
    """The values, as Python has them."""
    return store.get_online_features(features=features, entity_rows=rows).to_dict()


main()
