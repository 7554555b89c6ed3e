from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from kafka.admin import KafkaAdminClient, NewTopic
from prometheus_client import CollectorRegistry
from topic_records import records_of

from tenuto import local
from tenuto.snapshot.record import LogPositions, Snapshot, decode
from tenuto.streams.capture import Capture, CaptureMetrics, sampled

PARTITIONS = 4
NOW = 1_650_000_000_000


def snapshot(number: int | str, **changes: Any) -> Snapshot:
    made = Snapshot(
        f"r{number}", "u1", "夜想曲", NOW, NOW, ["i1"], [("ctr", "0" * 16)], b"\0" * 4, b"\0",
        "layout", LogPositions(["clicks"], 1, b"", [0], [0], []),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


class Counted:
    """A capture with counters of its own."""

    def __init__(self, bootstrap: str, topic: str = "snapshots", **options: Any) -> None:
        self.registry = CollectorRegistry()
        metrics = CaptureMetrics(self.registry)
        connection = {"bootstrap_servers": bootstrap}
        self.capture = Capture(connection, topic, metrics=metrics, **options)

    @property
    def captured(self) -> float | None:
        return self.registry.get_sample_value("tenuto_snapshots_captured_total")

    def dropped(self, reason: str) -> float | None:
        name = "tenuto_snapshots_dropped_total"
        return self.registry.get_sample_value(name, {"reason": reason})


def ids(records: list[Any]) -> list[str]:
    return sorted(decode(record.value).request_id for record in records)


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where nothing ever answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield "{}:{}".format(*listening.getsockname())


@pytest.mark.stack
def test_a_snapshot_is_keyed_by_its_request_and_stamped(
    bootstrap: str, make_topic: Callable[..., str]
) -> None:
    counted = Counted(bootstrap, topic := make_topic(), clock_ms=lambda: NOW + 7)
    assert counted.capture.send(snapshot(1), timestamp_ms=NOW + 3)
    counted.capture.flush(20)
    assert counted.captured == 1
    # The first one waited for a connection, this one does not.
    assert counted.capture.send(snapshot(2), timestamp_ms=NOW + 3)
    counted.capture.close()
    assert counted.captured == 2
    for number, record in enumerate(sorted(records_of(bootstrap, topic), key=lambda r: r.key), 1):
        assert decode(record.value) == snapshot(number)
        assert (record.key, record.timestamp) == (b"r%d" % number, NOW + 3)
        assert record.headers == [("sent_at", b"1650000000007")]


@pytest.mark.stack
def test_every_snapshot_of_many_threads_arrives_once(
    bootstrap: str, make_topic: Callable[..., str]
) -> None:
    counted = Counted(bootstrap, topic := make_topic())

    def rank(server: int) -> None:
        for number in range(100):
            assert counted.capture.send(snapshot(f"{server}-{number}"))

    threads = [threading.Thread(target=rank, args=(server,)) for server in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted.capture.close()
    expected = [f"r{server}-{number}" for server in range(4) for number in range(100)]
    assert ids(records_of(bootstrap, topic)) == sorted(expected)
    assert counted.captured == 400


@pytest.mark.stack
def test_a_sampled_request_carries_its_weight_and_the_others_are_not_written(
    bootstrap: str, make_topic: Callable[..., str]
) -> None:
    counted = Counted(bootstrap, topic := make_topic(), sample_rate=0.25)
    taken = [n for n in range(200) if counted.capture.send(snapshot(n))]
    counted.capture.close()
    assert taken == [n for n in range(200) if sampled(f"r{n}", 0.25)]
    assert 20 < len(taken) < 80
    records = records_of(bootstrap, topic)
    assert ids(records) == sorted(f"r{n}" for n in taken)
    assert {decode(record.value).weight for record in records} == {4.0}


def test_without_a_broker_sending_waits_for_nothing_and_drops_are_counted(silent: str) -> None:
    # A send that waited would take max_block_ms, an hour.
    counted = Counted(silent, buffer=3, max_block_ms=3_600_000)
    assert [counted.capture.send(snapshot(n)) for n in range(5)] == [True] * 3 + [False] * 2
    assert counted.dropped("buffer_full") == 2
    with pytest.raises(TimeoutError, match="3 snapshots not acknowledged"):
        counted.capture.flush(0.05)


def test_what_may_wait_is_bounded_in_bytes_too(silent: str) -> None:
    counted = Counted(silent, buffer_bytes=1_000)
    large = snapshot(0, query="x" * 600)
    assert [counted.capture.send(large) for _ in range(2)] == [True, False]
    assert counted.dropped("buffer_full") == 1
    waiting = counted.registry.get_sample_value("tenuto_capture_waiting_bytes")
    assert waiting is not None
    assert 600 < waiting <= 1_000
    counted.capture.close(0.0)
    assert counted.registry.get_sample_value("tenuto_capture_waiting_bytes") == 0


def test_what_waited_too_long_is_dropped_and_counted(silent: str) -> None:
    counted = Counted(silent, max_wait_s=0.1, max_block_ms=50)
    assert counted.capture.send(snapshot(1))
    assert counted.capture.send(snapshot(2))
    counted.capture.flush(20)
    assert counted.dropped("expired") == 2


def test_what_a_close_leaves_behind_is_counted_and_later_ones_are_refused(silent: str) -> None:
    counted = Counted(silent, max_block_ms=50)
    assert all(counted.capture.send(snapshot(n)) for n in range(3))
    counted.capture.close(0.1)
    assert counted.dropped("closed") == 3
    assert not counted.capture.send(snapshot(3))
    assert counted.dropped("closed") == 4


@pytest.mark.stack
def test_too_large_a_snapshot_is_dropped_and_counted_whether_it_waits_or_not(
    bootstrap: str, make_topic: Callable[..., str]
) -> None:
    counted = Counted(bootstrap, topic := make_topic(), max_bytes=1_000)
    large = snapshot(0, query="x" * 1_000)
    counted.capture.send(large)
    counted.capture.send(snapshot(1))
    counted.capture.flush(20)
    assert not counted.capture.send(large)
    counted.capture.close()
    assert counted.dropped("oversized") == 2
    assert ids(records_of(bootstrap, topic)) == ["r1"]


@pytest.fixture
def own_stack() -> Iterator[local.LocalStack]:
    if not os.environ.get("KAFKA_HOME"):
        pytest.skip("KAFKA_HOME names no Apache Kafka")
    with local.start("kafka", redis=False) as running:
        yield running


@pytest.mark.stack
def test_what_was_captured_while_the_broker_was_down_arrives_when_it_is_up(
    own_stack: local.LocalStack,
) -> None:
    with KafkaAdminClient(bootstrap_servers=own_stack.bootstrap) as admin:
        admin.create_topics([NewTopic("snapshots", PARTITIONS, 1)])
    connected = Counted(own_stack.bootstrap, buffer=20, max_pending_bytes=2**14, max_bytes=2**12)
    connected.capture.send(snapshot("first"))
    connected.capture.flush(20)
    own_stack.kill_broker()
    unconnected = Counted(own_stack.bootstrap, buffer=20)
    kept = {
        server: [n for n in range(100) if counted.capture.send(snapshot(f"{server}{n}"))]
        for server, counted in (("a", connected), ("b", unconnected))
    }
    assert len(kept["a"]) > 20
    assert len(kept["b"]) == 20
    own_stack.restart_broker()
    for counted in (connected, unconnected):
        counted.capture.flush(60)
        counted.capture.close()
    expected = [f"r{server}{number}" for server, numbers in kept.items() for number in numbers]
    assert ids(records_of(own_stack.bootstrap, "snapshots")) == sorted([*expected, "rfirst"])
    assert connected.dropped("buffer_full") == 100 - len(kept["a"])
    assert unconnected.dropped("buffer_full") == 80


FORKING = """
import os, sys
sys.path.insert(0, sys.argv[3])
from test_capture import Counted, snapshot

counted = Counted(sys.argv[1], sys.argv[2])
# These wait for a connection, on a thread that the children do not have.
for n in range(20):
    assert counted.capture.send(snapshot(f"parent-{n}"))
children = []
for child in range(3):
    if child == 1:
        counted.capture.flush(20)
        for n in range(20, 40):
            # And these are on their way in the parent's producer.
            assert counted.capture.send(snapshot(f"parent-{n}"))
    pid = os.fork()
    if pid == 0:
        for n in range(30):
            assert counted.capture.send(snapshot(f"{child}-{n}"))
        counted.capture.close(20)
        sys.exit(0)
    children.append(pid)
statuses = [os.waitpid(pid, 0)[1] for pid in children]
for n in range(40, 60):
    assert counted.capture.send(snapshot(f"parent-{n}"))
counted.capture.close(20)
print(statuses, int(counted.captured))
"""


@pytest.mark.stack
def test_parent_and_children_of_a_fork_capture_and_every_snapshot_arrives_once(
    bootstrap: str, make_topic: Callable[..., str]
) -> None:
    topic = make_topic()
    command = [sys.executable, "-c", FORKING, bootstrap, topic, os.path.dirname(__file__)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0, 0, 0] 60"
    expected = [f"rparent-{n}" for n in range(60)]
    expected += [f"r{child}-{n}" for child in range(3) for n in range(30)]
    assert ids(records_of(bootstrap, topic)) == sorted(expected)


CONNECTING = """
import sys
sys.path.insert(0, sys.argv[3])
from test_capture import Counted, snapshot

known = set(sys.modules)
counted = Counted(sys.argv[1], sys.argv[2])
assert counted.capture.send(snapshot(1))
counted.capture.close(20)
print(int(counted.captured), sorted(set(sys.modules) - known))
"""


@pytest.mark.stack
def test_connecting_and_sending_import_nothing_that_a_fork_meanwhile_would_leave_half_imported(
    bootstrap: str, make_topic: Callable[..., str]
) -> None:
    command = [sys.executable, "-c", CONNECTING, bootstrap, make_topic(), os.path.dirname(__file__)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.stdout.strip() == "1 []", done.stderr
