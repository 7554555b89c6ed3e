"""Turn the KuaiRand subset into an interaction log: ``python examples/kuairand.py IN OUT.parquet``.

The data are a subset of KuaiRand-27K by Chongming Gao, Shijun Li, Yuan Zhang, Jiawei Chen, Biao Li,
Wenqiang Lei, Peng Jiang and Xiangnan He: "KuaiRand: An Unbiased Sequential Recommendation Dataset
with Randomly Exposed Videos", CIKM 2022. Licence of the data: CC BY-SA 4.0; name the authors
wherever results from it are shown.

Each exposure becomes a request of its own at its time, position missing: the data have no request
ids, and requests formed from a user's exposures would leak their outcomes. They have one time per
row, so every event of a row is stamped with it: impression, click, start of the play and like are
0 ms apart. Clicks and likes really came later, by seconds to the length of the play; features of
other requests in those seconds see them too early. ``like`` is ``label`` = 1 (the subset holds
only exposures that were liked, 1, or hated, 0), so its rate is that of the selection, not of a
feed. Every other column is an outcome and is left behind.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("request_id", "user_id", "query", "item_id")]
    + [(name, pa.int64()) for name in ("request_ts_ms", "impression_ts_ms", "click_ts_ms")]
    + [(name, pa.int64()) for name in ("play_ts_ms", "play_ms", "duration_ms", "like_ts_ms")]
)


def interaction_log(exposures: list[dict[str, str]]) -> pa.Table:
    """One row per exposure, those equal in user, video and time being numbered apart."""
    seen: Counter[str] = Counter()
    rows = []
    # Sorted by all they say, so that the numbers do not depend on the file's order.
    for one in sorted(exposures, key=lambda one: tuple(one.values())):
        shown_ms, play_ms = int(one["time_ms"]), int(one["play_time_ms"])
        exposure = f"{one['user_id']}-{one['video_id']}-{shown_ms}"
        seen[exposure] += 1
        rows.append(
            {
                "request_id": f"{exposure}-{seen[exposure]}",
                "user_id": one["user_id"],
                "query": "",
                "item_id": one["video_id"],
                "request_ts_ms": shown_ms,
                "impression_ts_ms": shown_ms,
                "click_ts_ms": shown_ms if one["is_click"] == "1" else None,
                "play_ts_ms": shown_ms if play_ms > 0 else None,
                "play_ms": play_ms if play_ms > 0 else None,
                "duration_ms": int(one["duration_ms"]),
                "like_ts_ms": shown_ms if one["label"] == "1" else None,
            }
        )
    return pa.Table.from_pylist(rows, SCHEMA)


def main() -> None:
    """Read IN, write OUT, say how many rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].split(":")[0])
    parser.add_argument("source", metavar="IN", type=Path, help="kuairand_27k_subset.tsv.gz")
    parser.add_argument("log", metavar="OUT.parquet", type=Path)
    arguments = parser.parse_args()
    with gzip.open(arguments.source, "rt", encoding="utf-8", newline="") as text:
        exposures = list(csv.DictReader(text, delimiter="\t"))
    table = interaction_log(exposures)
    pq.write_table(table, arguments.log)
    print(f"{len(table)} exposures, each a request of its own, in {arguments.log}")


if __name__ == "__main__":
    main()
