"""Where a wall clock is read at all: never to decide anything that ends up in data.

So a worker's clock an hour off changes nothing: the broker stamps records (LogAppendTime) and
heartbeats, and what is decided is decided by records.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today"}
# Where, and what for: metrics, or a client's own send time. Never to judge, join or cut.
ALLOWED = {
    "streams/feature_metrics.py": "freshness: a histogram",
    "streams/producer.py": "sent_at of a client, which only metrics read",
    "streams/capture.py": "sent_at of a client, which only metrics read",
}


def reads_of_a_clock(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in CLOCKS
    ] + [
        f"from {node.module} import {alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "time"
        for alias in node.names
        if alias.name in ("time", "time_ns")
    ]


def test_only_metrics_and_clients_read_a_wall_clock() -> None:
    found = {
        str(path.relative_to(ROOT))
        for folder in ("features", "snapshot", "streams")
        for path in (ROOT / folder).rglob("*.py")
        if reads_of_a_clock(path)
    }
    assert found == set(ALLOWED)
