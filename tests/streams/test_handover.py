"""Partitions change hands when a worker leaves or joins: by its word, not by a session's end.

The session timeout is a minute, and no test waits for half of one: what is handed over within that
was handed over by a LeaveGroup.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from kafka import KafkaProducer
from test_batches import PARTITIONS, Worker, brokers, chains, topic, wait_until, work

__all__ = ["brokers", "topic", "work"]
pytestmark = pytest.mark.stack
SESSION_S = 60.0
HANDED_OVER_S = SESSION_S / 2


@pytest.fixture
def load(brokers: str, topic: str) -> Iterator[Callable[[], int]]:
    """Records to every partition all the time; how many of each were acknowledged."""
    producer = KafkaProducer(bootstrap_servers=brokers, linger_ms=5)
    ended, sent = threading.Event(), [0]

    def produce() -> None:
        while not ended.wait(0.02):
            for partition in range(PARTITIONS):
                producer.send(topic, value=b"%d" % sent[0], partition=partition)
            producer.flush()
            sent[0] += 1

    def stop() -> int:
        ended.set()
        thread.join()
        return sent[0]

    thread = threading.Thread(target=produce)
    thread.start()
    yield stop
    stop()
    producer.close()


def held(worker: Worker) -> list[int]:
    """Partitions of a worker's last assignment."""
    assigned = worker.notes("assigned")
    return assigned[-1]["partitions"] if assigned else []


def is_shared(one: Worker, other: Worker) -> bool:
    return bool(held(one)) and bool(held(other)) and not set(held(one)) & set(held(other))


def pause_s(lines: list[dict[str, Any]], since_s: float) -> float:
    """Longest time in which nothing of a partition was applied, around a moment."""
    times = sorted(line["at_s"] for line in lines)
    gaps = [(b - a, b) for a, b in pairwise(times) if b > since_s]
    return max((gap for gap, _ in gaps), default=0.0)


def pair(work: Any, **settings: Any) -> tuple[Worker, Worker]:
    """Two workers of one group that have shared its partitions and share their notes."""
    one = work("notes", session_timeout_s=SESSION_S, **settings)
    wait_until(lambda: len(held(one)) == PARTITIONS, HANDED_OVER_S)
    if "instance" in settings:
        settings["instance"] += "-other"
    other = work("others", session_timeout_s=SESSION_S, **settings)
    wait_until(lambda: is_shared(one, other), HANDED_OVER_S)
    return one, other


def test_a_worker_that_leaves_hands_its_partitions_over_at_once(
    load: Callable[[], int], work: Any
) -> None:
    # Often a commit is under way then: what is finished meanwhile is not done twice either.
    one, other = pair(work, positions="committed", commit_interval_s=0.02)
    wait_until(lambda: len(one.notes()) > 5 and len(other.notes()) > 5, HANDED_OVER_S)
    left_s = time.monotonic()
    assert one.stop(signal.SIGTERM) == 0
    wait_until(lambda: len(held(other)) == PARTITIONS, HANDED_OVER_S)
    after = len(other.notes())
    wait_until(lambda: len(other.notes()) > after + 8, HANDED_OVER_S)
    sent = load()
    wait_until(
        lambda: all(max(w.end(p) for w in (one, other)) == sent for p in range(PARTITIONS)),
        HANDED_OVER_S,
    )
    for partition in range(PARTITIONS):
        lines = one.notes(partition=partition) + other.notes(partition=partition)
        lines.sort(key=lambda line: line["start"])
        assert chains(lines), partition
        print(f"partition {partition}: pause {pause_s(lines, left_s):.2f} s")


def test_a_worker_that_joins_under_load_gets_its_share_soon_and_nothing_is_lost(
    load: Callable[[], int], work: Any
) -> None:
    began_s = time.monotonic()
    one, other = pair(work, positions="committed")
    before = len(other.notes())
    wait_until(lambda: len(other.notes()) > before + 8, HANDED_OVER_S)
    sent = load()
    wait_until(
        lambda: all(max(w.end(p) for w in (one, other)) == sent for p in range(PARTITIONS)),
        HANDED_OVER_S,
    )
    for partition in range(PARTITIONS):
        lines = one.notes(partition=partition) + other.notes(partition=partition)
        numbers = sorted({int(v) for line in lines for v in line["values"]})
        assert numbers == list(range(sent)), partition
        print(f"partition {partition}: pause {pause_s(lines, began_s + 3):.2f} s")


def test_a_worker_with_a_name_keeps_its_partitions_for_its_next_start(
    load: Callable[[], int], work: Any
) -> None:
    """A restart within the session is no rebalance: nobody else pauses for it."""
    one, other = pair(work, positions="committed", instance="a")
    wait_until(lambda: len(one.notes()) > 5 and len(other.notes()) > 5, HANDED_OVER_S)
    mine, assignments = held(one), len(other.notes("assigned"))
    assert one.stop() == 0
    again = work("again", session_timeout_s=SESSION_S, positions="committed", instance="a")
    wait_until(lambda: len(again.notes()) > 5, HANDED_OVER_S)
    assert held(again) == mine
    assert len(other.notes("assigned")) == assignments
