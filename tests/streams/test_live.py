"""Production's own way: the broker stamps time, workers keep it going, nobody drives.

An application with windows of seconds, so that samples become final while the test waits.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaProducer

import tenuto
from tenuto import local
from tenuto.drive.workers import Workers
from tenuto.settings import Settings, environment, load
from tenuto.snapshot.dataset import Samples
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import Sizes, Topics, plan

APP = """
from tenuto.platform import Platform
from tenuto.presets import video
from tenuto.snapshot.labels import SampleStream, first

clicked = first(video.clicks, "clicked", window="3s", delay="click_delay_ms")
app = Platform(
    "live", events=video.events, features=video.small,
    samples=[SampleStream("default", [clicked], impression_window="3s")],
)
"""


@pytest.fixture
def settings(
    kafka: local.LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    (tmp_path / "liveapp.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("liveapp", None)
    env = {
        "TENUTO_APP": "liveapp:app",
        "TENUTO_NAMESPACE": "live",
        "TENUTO_KAFKA__BOOTSTRAP": kafka.bootstrap,
        "TENUTO_KAFKA__PARTITIONS": "3",
        "TENUTO_REDIS__URL": kafka.redis_url,
        "TENUTO_TIME__LATENESS": "1s",
        "TENUTO_TIME__SNAPSHOT_LATENESS": "2s",
        "TENUTO_WORKERS__SESSION_TIMEOUT_S": "6.0",
        "TENUTO_WORKERS__REBALANCE_TIMEOUT_S": "4.0",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }
    found = load(env=env).settings
    import liveapp

    topics = plan(
        TopicNames("live"), liveapp.app.events, liveapp.app.samples, partitions=3,
        sizes=Sizes(found.limits.event_bytes, found.limits.snapshot_bytes),
    )  # fmt: skip
    with Topics(found.kafka) as admin:
        admin.create(topics)
        assert not admin.check(topics).problems
    # What a stranger wrote must not keep the joiner from its start, nor readers from its rows.
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    producer.send("live.samples", b"not Arrow", partition=0).get(30)
    producer.close()
    with Workers(environment(found) | {"PYTHONPATH": env["PYTHONPATH"]}, tmp_path / "logs") as w:
        w.start("features", ["worker", "features"])
        w.start("join", ["worker", "join"])
        yield found
        w.check()
        assert set(w.all_restarts().values()) == {0}


def test_a_request_is_read_captured_labelled_and_final_with_no_further_traffic(
    settings: Settings, kafka: local.LocalStack
) -> None:
    def event(request_id: str, item: str, position: int) -> dict[str, object]:
        return {
            "request_id": request_id, "user_id": "u", "query": "q", "item_id": item,
            "position": position, "ts": time.time_ns() // 1_000_000,
        }  # fmt: skip

    with tenuto.connect(settings=settings) as t:
        # Until each partition has spoken, its values are being rebuilt, or behind.
        deadline = time.monotonic() + 60
        while True:
            now_ms = time.time_ns() // 1_000_000
            request = tenuto.Request("warm", "u", "q", now_ms)
            matrix = t.read(request, ["a", "b"], timeout_ms=5_000)
            if set(matrix.state("item_clicks_1h").tolist()) == {1}:
                break
            assert time.monotonic() < deadline, matrix.states
            time.sleep(0.2)

        for number in range(6):
            request = tenuto.Request(f"r{number}", "u", "q", time.time_ns() // 1_000_000)
            matrix = t.read(request, ["a", "b"], timeout_ms=5_000)
            assert t.capture(request, shown=["b", "a"], matrix=matrix, policy="test")
            t.send("impressions", event(f"r{number}", "b", 0))
            t.send("impressions", event(f"r{number}", "a", 1))
            if number % 2:
                t.send("clicks", event(f"r{number}", "b", 0))
        t.flush()

        deadline = time.monotonic() + 60
        topic = Samples(topic="live.samples", bootstrap=kafka.bootstrap)
        while (table := topic.table()).num_rows < 12:
            assert time.monotonic() < deadline, table.num_rows
            time.sleep(0.5)
        rows = {(r["request_id"], r["item_id"]): r for r in table.to_pylist()}
        assert len(rows) == table.num_rows == 12
        for number in range(6):
            first, second = rows[f"r{number}", "b"], rows[f"r{number}", "a"]
            assert (first["item_index"], second["item_index"]) == (0, 1)
            assert (first["impressed"], second["impressed"]) == (1, 1)
            assert (first["clicked"], second["clicked"]) == (number % 2, 0)
            assert first["policy"] == "test"

        request = tenuto.Request("after", "u", "q", time.time_ns() // 1_000_000)
        matrix = t.read(request, ["a", "b"], timeout_ms=5_000)
        assert matrix.column("item_impressions_1h").tolist() == [6.0, 6.0]
        assert matrix.column("item_clicks_1h").tolist() == [0.0, 3.0]
        assert set(matrix.state("item_clicks_1h").tolist()) == {0}
