"""PyFlink: a left interval join of shown items with their clicks in SQL, whose rows are counted."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from environment import KAFKA, environment

TABLE = (
    """
CREATE TABLE {name} (k STRING, {ts} BIGINT, t AS TO_TIMESTAMP_LTZ({ts}, 3), WATERMARK FOR t AS t)
WITH ("""
    + KAFKA
    + ")"
)
JOIN = """
SELECT COUNT(*) AS n, COUNT(clicked.k) AS clicked FROM shown LEFT JOIN clicked
ON shown.k = clicked.k
AND clicked.t BETWEEN shown.t AND shown.t + INTERVAL '{window_min}' MINUTE"""

MINI_BATCH = {"enabled": "true", "allow-latency": "1 s", "size": "100000"}


def main() -> None:
    asked = json.loads(sys.argv[1])
    _, tables = environment(asked["jar"])
    # Else the count tells each of its changes, and fetching them takes longer than the join.
    for option, value in MINI_BATCH.items():
        tables.get_config().set(f"table.exec.mini-batch.{option}", value)
    for name, ts in (("shown", "ts"), ("clicked", "clicked_ts")):
        tables.execute_sql(
            TABLE.format(name=name, ts=ts, topic=asked[name], bootstrap=asked["bootstrap"])
        )
    began_s = time.perf_counter()
    rows = clicked = 0
    # A running count: the last of its changes is the count.
    with tables.execute_sql(JOIN.format(**asked)).collect() as results:
        for row in results:
            rows, clicked = max(rows, row[0]), max(clicked, row[1])
    seconds = time.perf_counter() - began_s
    print()
    print(json.dumps({"rows": rows, "clicked": clicked, "seconds": seconds}))


main()
