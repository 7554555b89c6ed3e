"""Garbage at the door of live workers: dead letters by reason, and the stream goes on."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from tenuto import local
from tenuto.drive.run import Run, RunOptions, run_settings
from tenuto.features.reader import Request
from tenuto.presets import video
from tenuto.settings import load
from tenuto.streams.dead_letters import read
from tenuto.streams.heartbeats import heartbeat
from tenuto.streams.partitions import partition_of

NOW_MS = 1_700_000_000_000
PARTITIONS = 2


def event(number: int, **changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "request_id": f"r{number}",
        "user_id": "u",
        "query": "",
        "item_id": "i",
        "position": 0,
        "ts": NOW_MS,
    }
    return record | changes


def home(record: dict[str, Any]) -> int:
    return int(partition_of([record["request_id"]], PARTITIONS)[0])


BAD: list[tuple[str, bytes]] = [
    ("malformed", b"{"),
    ("malformed", b'{"request_id": "r", "user_id": "\xff"}'),
    ("malformed", orjson.dumps(event(1)).replace(b'"position":0', b'"position":NaN')),
    ("malformed", orjson.dumps(event(2)) + b"," + orjson.dumps(event(2))),
    ("empty", b""),
    ("field", orjson.dumps(event(3, ts=-1))),
    ("field", orjson.dumps(event(4, position=-3))),
    ("field", orjson.dumps(event(5, item_id=7))),
    ("field", orjson.dumps(event(6, item_id="x" * 300))),
    ("version", orjson.dumps(event(7, v=9))),
    ("oversized", orjson.dumps(event(8, item_id="x" * 1_000_000))),
    ("future", orjson.dumps(event(9, ts=NOW_MS + 3_600_000))),
    ("late", orjson.dumps(event(10, ts=NOW_MS - 3_600_000))),
]


@pytest.fixture
def run(stack: local.LocalStack, tmp_path: Path) -> Any:
    settings = load(env={
        "TENUTO_KAFKA__BOOTSTRAP": stack.bootstrap,
        "TENUTO_REDIS__URL": stack.redis_url,
    }).settings  # fmt: skip
    own = run_settings(settings, namespace=f"bad-{stack.kind}", partitions=PARTITIONS)
    options = RunOptions(own, video.app, tmp_path / "out", tmp_path / "work", start_stack=None)
    with Run(options) as running:
        yield running


def test_what_cannot_be_right_becomes_a_dead_letter_and_its_neighbours_count(run: Run) -> None:
    topic = run.names.of("impressions")

    def send(value: bytes, partition: int, timestamp_ms: int = NOW_MS) -> None:
        run.outbox.send(topic, value, partition=partition, timestamp_ms=timestamp_ms)

    good = 0
    for number, (_, value) in enumerate(BAD):
        neighbour = event(100 + number, unknown_field={"a": [1, 2]})
        partition = home(neighbour)
        send(orjson.dumps(neighbour), partition)
        send(value, partition)
        good += 1
    stray = event(500)
    send(orjson.dumps(stray), 1 - home(stray))
    last = event(501)
    send(orjson.dumps(last), home(last))
    good += 1
    beat = heartbeat()
    for name in run.names.events(run.platform.events).values():
        for partition in range(PARTITIONS):
            run.outbox.send(
                name, beat.value, partition=partition, headers=beat.headers, timestamp_ms=NOW_MS
            )
    run.outbox.flush(30)

    request = Request("r", "u", "", NOW_MS)
    deadline = time.monotonic() + 60
    counted = -1.0
    while counted != good and time.monotonic() < deadline:
        run.workers.check()
        matrix = run.client.read(request, ["i"], timeout_ms=5_000, as_of_ms=NOW_MS)
        counted = float(matrix.column("item_impressions_1h")[0])
        time.sleep(0.1)
    assert counted == good

    connection = run.settings.kafka.kafka_python()
    letters = list(read(connection, run.names.dead_letters))
    wanted = Counter([reason for reason, _ in BAD] + ["misplaced"])
    # In one partition a record before the others' is as late as any other: nothing else is.
    assert Counter(letter.reason for letter in letters) == wanted
    bodies = {letter.value for letter in letters}
    assert {value for reason, value in BAD if reason != "oversized"} <= bodies
    assert all(topic in letter.text for letter in letters)
    negative = next(letter for letter in letters if "position: -3" in letter.text)
    assert "must be" in negative.text
    assert run.workers.all_restarts()["features"] == 0
