"""How long topics are kept, against what a rebuild must read: on real brokers."""

from __future__ import annotations

import math
import uuid

import pytest

from tenuto import local
from tenuto.streams.connection import KafkaConnection
from tenuto.streams.retention import Retention, shortfalls
from tenuto.streams.topics import Topic, Topics

DAY_MS = 86_400_000


@pytest.mark.stack
def test_what_a_broker_keeps_is_known_and_a_shortfall_is_one_line(
    stack: local.LocalStack,
) -> None:
    short, small, kept = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("short", "small", "kept"))
    made = [
        Topic(short, 1, {"retention.ms": "3600000"}),
        Topic(small, 1, {"retention.ms": "-1", "retention.bytes": "1000000"}),
        Topic(kept, 1, {"retention.ms": str(8 * DAY_MS)}),
    ]
    with Topics(KafkaConnection(bootstrap=stack.bootstrap)) as topics:
        topics.create(made, replication_factor=1)
        found = topics.retention([short, small, kept])
    assert found == [
        Retention(short, 3_600_000), Retention(small, -1, 1_000_000), Retention(kept, 8 * DAY_MS)
    ]  # fmt: skip
    by_time, by_size = shortfalls(found, 7 * DAY_MS)
    assert by_time.startswith(f"{short}: retention.ms keeps 1h, and ")
    assert "7.00 days" in by_time
    assert by_size.startswith(f"{small}: retention.bytes keeps 1000000 bytes")
    assert "\n" not in by_time + by_size


def test_exactly_what_is_needed_is_enough() -> None:
    assert shortfalls([Retention("t", 1_000)], 1_000) == []
    assert len(shortfalls([Retention("t", 999)], 1_000)) == 1


def test_for_ever_and_unknown_are_no_shortfall() -> None:
    kept = [Retention("ever", -1), Retention("unknown", None)]
    assert shortfalls(kept, DAY_MS) == []
    assert kept[0].seconds == math.inf
    assert math.isnan(kept[1].seconds)
