"""Does a replay's output agree with a plain count of its log?

    python benchmarks/check_replay.py LOG.parquet SAMPLES_DIR

Reads the interaction log by itself (Parquet, one exposure a request, as examples/kuairand.py writes
it) and counts with sorted lists: every shown item is one row; each click, play and like in its
window is found; every raw sum of the small preset equals the count of the events in its window as
of the row's boundary. Prints what it checked; exits with 1 when anything differs.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from bisect import bisect_left
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tenuto.snapshot.dataset import Samples

MINUTE_MS = 60_000
TILES_MS = {"5m": 10_000, "1h": 60_000, "1d": 1_800_000, "7d": 21_600_000}
WINDOWS_MS = {"5m": 300_000, "1h": 3_600_000, "1d": 86_400_000, "7d": 604_800_000}
SUM = re.compile(r"(item|user|query|query_item)_(impressions|clicks|likes)_(5m|1h|1d|7d)")
TIME = {"impressions": "impression_ts_ms", "clicks": "click_ts_ms", "likes": "like_ts_ms"}


def key_of(entity: str, row: dict[str, Any]) -> Any:
    keys = {"item": row["item_id"], "user": row["user_id"], "query": row["query"]}
    return (row["query"], row["item_id"]) if entity == "query_item" else keys[entity]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("samples", type=Path)
    arguments = parser.parse_args()
    log = {row["request_id"]: row for row in pq.read_table(arguments.log).to_pylist()}
    times: dict[tuple[str, str, Any], list[int]] = defaultdict(list)
    entities = ("item", "user", "query", "query_item")
    for row in log.values():
        for event, column in TIME.items():
            if row[column] is not None:
                for entity in entities:
                    times[entity, event, key_of(entity, row)].append(row[column])
    for found in times.values():
        found.sort()
    checked, wrong = Counter(), Counter()
    seen: Counter[str] = Counter()
    for batch in Samples(arguments.samples).batches():
        sums = [match for name in batch.schema.names if (match := SUM.fullmatch(name))]
        for sample in batch.to_pylist():
            row = log[sample["request_id"]]
            seen[sample["request_id"]] += 1
            boundary = row["request_ts_ms"] - row["request_ts_ms"] % 10_000
            for name, want in labels(row).items():
                checked["labels"] += 1
                wrong["labels"] += sample[name] != want
            for match in sums:
                entity, event, window = match.groups()
                got = sample[match[0]]
                if math.isnan(got):
                    # Missing: nothing at all of this entity in its longest window.
                    got = 0.0
                want = count(times[entity, event, key_of(entity, row)], window, boundary)
                checked["window sums"] += 1
                wrong["window sums"] += got != want
    missing = sum(1 for request in log if not seen[request])
    extra = sum(seen.values()) - len(seen)
    for what in checked:
        print(f"{what}: {checked[what]:,} checked, {wrong[what]:,} differ")
    print(f"rows: {sum(seen.values()):,}, missing {missing}, extra {extra}")
    return 1 if missing or extra or sum(wrong.values()) else 0


def labels(row: dict[str, Any]) -> dict[str, Any]:
    """Every event of such a log is at or after its exposure."""
    start = row["impression_ts_ms"]

    def within(column: str, minutes: int) -> bool:
        ts = row[column]
        return ts is not None and 0 <= ts - start <= minutes * MINUTE_MS

    return {
        "impressed": 1,
        "clicked": int(within("click_ts_ms", 10)),
        "played": int(within("play_ts_ms", 30)),
        "liked": int(within("like_ts_ms", 30)),
    }


def count(times: list[int], window: str, boundary: int) -> int:
    """Events before the boundary, in tiles of the window that ends with the boundary's."""
    tile = TILES_MS[window]
    first_tile = boundary // tile - WINDOWS_MS[window] // tile + 1
    return bisect_left(times, boundary) - bisect_left(times, min(first_tile * tile, boundary))


if __name__ == "__main__":
    sys.exit(main())
