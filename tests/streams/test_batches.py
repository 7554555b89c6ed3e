"""Whole batches through Faust, on real brokers and in real worker processes."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faust
import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from tenuto.streams.batches import TP, Batch, Committed
from tenuto.streams.transport import install_batches

pytestmark = pytest.mark.stack
PARTITIONS = 4
Notes = list[dict[str, Any]]


@pytest.fixture
def brokers(bootstrap: str) -> str:
    return bootstrap


@pytest.fixture
def topic(brokers: str) -> str:
    name = f"events-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=brokers)
    admin.create_topics(
        {name: {"num_partitions": PARTITIONS, "replication_factor": 1}}, wait_for_metadata=True
    )
    admin.close()
    return name


@pytest.fixture
def publish(brokers: str, topic: str) -> Iterator[Callable[[int, range], None]]:
    producer = KafkaProducer(bootstrap_servers=brokers, linger_ms=5)

    def send(partition: int, numbers: range) -> None:
        for number in numbers:
            producer.send(topic, value=b"%d" % number, partition=partition)
        producer.flush()

    yield send
    producer.close()


class Worker:
    """``batch_worker.py`` as a process, and what it has noted."""

    def __init__(self, brokers: str, topic: str, notes: Path, **config: Any) -> None:
        self.path = notes
        self.config = {
            "brokers": brokers,
            "topic": topic,
            "group": f"group-{topic}",
            "notes": str(notes),
            **config,
        }
        notes.touch()
        program = Path(__file__).with_name("batch_worker.py")
        self.process = subprocess.Popen([sys.executable, program, json.dumps(self.config)])

    def notes(self, kind: str = "applied", partition: int | None = None) -> Notes:
        return [
            line
            for line in self.all_notes()
            if line["kind"] == kind and partition in (None, line.get("partition"))
        ]

    def all_notes(self) -> Notes:
        # A line that is being written now has no end yet.
        whole = self.path.read_text().rpartition("\n")[0].splitlines()
        return list(map(json.loads, whole))

    def numbers(self, partition: int | None = None, kind: str = "applied") -> list[int]:
        return [int(v) for line in self.notes(kind, partition) for v in line["values"]]

    def end(self, partition: int) -> int:
        return max((line["end"] for line in self.notes(partition=partition)), default=0)

    def wait(self, condition: Callable[[], object], timeout_s: float = 30) -> None:
        def reached() -> object:
            alive = self.process.poll() is None
            return condition() or pytest.fail("the worker has ended") if not alive else condition()

        wait_until(reached, timeout_s)

    def stop(self, sig: int = signal.SIGTERM, timeout_s: float = 30) -> int:
        self.process.send_signal(sig)
        return self.process.wait(timeout_s)


@pytest.fixture
def work(brokers: str, topic: str, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(notes: str = "notes", **config: Any) -> Worker:
        workers.append(Worker(brokers, topic, tmp_path / notes, **config))
        return workers[-1]

    yield start
    for worker in workers:
        worker.process.kill()
        worker.process.wait()


@pytest.fixture
def committed(brokers: str, topic: str) -> Iterator[Callable[[int], int | None]]:
    consumer = KafkaConsumer(
        bootstrap_servers=brokers, group_id=f"group-{topic}", enable_auto_commit=False
    )
    yield lambda partition: consumer.committed(TopicPartition(topic, partition))
    consumer.close()


def wait_until(condition: Callable[[], object], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def chains(lines: Notes, start: int = 0) -> bool:
    """Whether the intervals follow one another without a hole, and hold their own records."""
    for line in lines:
        if line["start"] != start or line["end"] <= start:
            return False
        if not all(start <= offset < line["end"] for offset in line["offsets"]):
            return False
        start = line["end"]
    return True


def by_generation(worker: Worker, partition: int) -> list[Notes]:
    lines = worker.notes(partition=partition)
    generations = sorted({line["generation"] for line in lines})
    return [[line for line in lines if line["generation"] == wanted] for wanted in generations]


def test_batches_of_a_partition_are_contiguous_and_hold_every_record(publish, work) -> None:
    for partition in range(PARTITIONS):
        publish(partition, range(1000))
    worker = work(max_poll_records=70)
    worker.wait(lambda: len(worker.numbers()) == 1000 * PARTITIONS)
    publish(2, range(1000, 1500))
    worker.wait(lambda: worker.end(2) == 1500)
    for partition in range(PARTITIONS):
        assert chains(worker.notes(partition=partition))
        assert worker.numbers(partition) == list(range(1500 if partition == 2 else 1000))
    assert max(len(line["values"]) for line in worker.notes()) <= 70
    assert {line["missed"] for line in worker.notes()} == {0}


def test_a_fetch_is_bounded_in_bytes_however_many_records_these_are(publish, work) -> None:
    for partition in range(PARTITIONS):
        # Of four digits each.
        publish(partition, range(1000, 3000))
    # In one batch they would all come at once: records are counted in tens of thousands.
    worker = work(max_poll_records=20_000, max_fetch_bytes=1_000)
    worker.wait(lambda: len(worker.numbers()) == 2000 * PARTITIONS)
    for partition in range(PARTITIONS):
        assert chains(worker.notes(partition=partition))
        assert worker.numbers(partition) == list(range(1000, 3000))
    sizes = [sum(map(len, line["values"])) for line in worker.notes()]
    assert max(sizes) < 1_000 + 64 * 4


def test_a_clean_stop_finishes_the_batch_in_hand_and_commits_it(publish, work, committed) -> None:
    publish(0, range(300))
    worker = work(agents=["hold"], at=150, hold_s=1.5)
    worker.wait(lambda: worker.notes("holding"))
    assert worker.stop() == 0
    (held,) = worker.notes("holding")
    assert worker.notes()[-1]["end"] == held["end"]
    assert committed(0) == held["end"]


def test_a_stop_commits_nothing_of_a_batch_that_does_not_end(publish, work, committed) -> None:
    publish(0, range(300))
    worker = work(agents=["hold"], at=150)
    worker.wait(lambda: worker.notes("holding"))
    assert worker.stop() == 0
    (held,) = worker.notes("holding")
    assert committed(0) == worker.end(0) == held["start"]


def test_transaction_markers_move_progress_without_a_record(stack, brokers, topic, work) -> None:
    if stack.kind == "embedded":
        pytest.skip("the embedded broker has no transactions")

    async def transactions() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=brokers, transactional_id=topic)
        await producer.start()
        for number in range(10):
            async with producer.transaction():
                await producer.send(topic, b"%d" % number, partition=0)
        await producer.stop()

    asyncio.run(transactions())
    worker = work()
    # Each of the ten records is followed by a marker at an offset of its own.
    worker.wait(lambda: worker.end(0) == 20)
    asyncio.run(transactions())
    worker.wait(lambda: worker.end(0) == 40)
    assert chains(worker.notes(partition=0))
    assert worker.numbers(0) == [*range(10), *range(10)]


def test_deleted_records_are_inside_the_interval_and_counted(brokers, topic, publish, work) -> None:
    publish(1, range(100))
    admin = KafkaAdminClient(bootstrap_servers=brokers)
    admin.delete_records({TopicPartition(topic, 1): 40})
    admin.close()
    worker = work()
    worker.wait(lambda: worker.end(1) == 100)
    assert chains(worker.notes(partition=1))
    assert worker.notes(partition=1)[0]["missed"] == 40
    assert worker.numbers(1) == list(range(40, 100))


def test_a_position_beyond_the_end_of_the_log_ends_the_worker(publish, work) -> None:
    publish(0, range(10))
    worker = work(**{"from": 11})
    assert worker.process.wait(30) == 1
    assert worker.notes() == []


def test_a_store_that_cannot_say_its_positions_ends_the_worker(publish, work) -> None:
    publish(0, range(10))
    worker = work(fail_positions=True)
    assert worker.process.wait(30) == 1
    assert worker.notes() == []


def test_a_commit_moves_only_past_finished_heads(publish, work, committed) -> None:
    publish(0, range(1000))
    # One agent runs ahead: a batch is finished when both are done with it.
    worker = work(agents=["hold", "fast"], at=150)
    worker.wait(lambda: len(worker.numbers(0, "fast")) >= 500)
    (held,) = worker.notes("holding")
    assert held["start"] > 0
    worker.wait(lambda: committed(0) == held["start"])
    time.sleep(1)
    assert committed(0) == held["start"]


def test_a_killed_worker_resumes_where_its_application_stands(publish, work, committed) -> None:
    for partition in range(PARTITIONS):
        publish(partition, range(3000))
    for _ in range(2):
        worker = work(sleep_s=0.02)
        before = len(worker.notes())
        worker.wait(lambda w=worker, n=before: len(w.notes()) > n + 20)
        worker.stop(signal.SIGKILL)
    worker = work()
    worker.wait(lambda: len(worker.numbers()) >= 3000 * PARTITIONS)
    assert worker.stop() == 0
    for partition in range(PARTITIONS):
        assert chains(worker.notes(partition=partition))
        assert worker.numbers(partition) == list(range(3000))
        assert committed(partition) == 3000


def test_going_back_with_a_full_buffer_reads_everything_again(publish, work, committed) -> None:
    publish(0, range(2000))
    worker = work(agents=["jump"], at=1250, to=330)
    worker.wait(lambda: worker.end(0) == 2000)
    (jump,) = worker.notes("jump")
    assert jump["buffered"] == 4
    before = [line for line in worker.notes() if line["generation"] == jump["generation"]]
    after = [line for line in worker.notes() if line["generation"] > jump["generation"]]
    assert chains(before)
    assert before[-1]["end"] == jump["start"]
    assert chains(after, start=330)
    assert [int(v) for line in after for v in line["values"]] == list(range(330, 2000))
    # What had been on its way says so by its generation.
    stale = worker.notes("stale")
    assert len(stale) >= 4
    assert {line["generation"] for line in stale} == {jump["generation"]}
    assert chains(stale, start=jump["end"])
    assert worker.stop() == 0
    assert committed(0) == 2000


def test_going_forward_skips_only_what_lies_between(publish, work) -> None:
    publish(0, range(2000))
    worker = work(agents=["jump"], at=250, to=1777)
    worker.wait(lambda: worker.end(0) == 2000)
    (jump,) = worker.notes("jump")
    assert worker.numbers(0) == [*range(jump["start"]), *range(1777, 2000)]


def test_nothing_is_current_while_the_application_says_where_it_stands(publish, work) -> None:
    worker = work(agents=["again"], at=5, thinks_s=0.5)
    publish(0, range(6))
    worker.wait(worker.notes)
    numbers = itertools.count(6)
    # Records come all the while, and the flow is not stopped.
    while len(worker.notes("answered")) < 2 or worker.end(0) < 6:
        first = next(numbers)
        publish(0, range(first, first + 1))
        time.sleep(0.01)
    last = next(numbers)
    publish(0, range(last, last + 1))
    worker.wait(lambda: last in worker.numbers())
    seen = worker.all_notes()
    asked = [at for at, note in enumerate(seen) if note["kind"] == "assigned"][1]
    answered = [at for at, note in enumerate(seen) if note["kind"] == "answered"][1]
    assert "applied" not in [note["kind"] for note in seen[asked:answered]]
    again = [note for note in seen[answered:] if note["kind"] == "applied"]
    assert chains(again)


def test_a_paused_partition_brings_nothing_until_it_is_resumed(publish, work) -> None:
    publish(0, range(10))
    worker = work(agents=["pause"], at=50)
    worker.wait(lambda: worker.notes("paused"))
    publish(0, range(10, 20))
    for number in range(50):
        publish(1, range(number, number + 1))
    worker.wait(lambda: worker.end(1) == 50)
    assert worker.end(0) == 10
    publish(1, range(50, 60))
    worker.wait(lambda: worker.end(0) == 20)
    assert worker.notes("resumed")
    assert chains(worker.notes(partition=0))


def test_an_agents_exception_ends_the_worker_and_commits_nothing_past_it(
    publish, work, committed
) -> None:
    publish(0, range(500))
    worker = work(agents=["fail"], at=250)
    assert worker.process.wait(30) == 1
    failed_at = worker.end(0)
    assert 0 < failed_at <= 250
    assert (committed(0) or 0) <= failed_at
    # The next one meets it again.
    again = work(agents=["fail"], at=250, positions="committed")
    assert again.process.wait(30) == 1
    assert (committed(0) or 0) <= failed_at
    assert 250 not in again.numbers(0)


def test_workers_that_come_and_go_lose_nothing(publish, work, committed) -> None:
    def load(first: int) -> None:
        for partition in range(PARTITIONS):
            publish(partition, range(first, first + 1000))

    first = work("first", positions="committed", sleep_s=0.005, max_poll_records=50)
    load(0)
    first.wait(lambda: len(first.numbers()) > 500)
    second = work("second", positions="committed", sleep_s=0.005, max_poll_records=50)
    second.wait(lambda: second.notes("assigned"))
    load(1000)
    second.wait(lambda: second.notes())
    load(2000)
    first.stop(signal.SIGKILL)
    third = work("third", positions="committed", sleep_s=0.005, max_poll_records=50)
    third.wait(lambda: third.notes("assigned"))
    load(3000)
    assert second.stop() == 0
    third.wait(lambda: all(committed(p) == 4000 for p in range(PARTITIONS)), timeout_s=60)
    for partition in range(PARTITIONS):
        seen = set[int]().union(*(w.numbers(partition) for w in (first, second, third)))
        assert seen == set(range(4000))
        for worker in (first, second, third):
            for lines in by_generation(worker, partition):
                assert chains(lines, start=lines[0]["start"])
    assert second.notes("revoked")


def test_one_record_reaches_the_agent_without_a_pause(publish, work) -> None:
    publish(0, range(1))
    worker = work()
    worker.wait(lambda: worker.end(0) == 1)
    taken_ms = []
    for number in range(1, 101):
        start = time.perf_counter()
        publish(0, range(number, number + 1))
        while worker.path.stat().st_size and worker.end(0) <= number:
            pass
        taken_ms.append((time.perf_counter() - start) * 1000)
    taken_ms.sort()
    # Publishing with its linger of 5 ms and reading the notes are in it.
    print(f"lock-step: median {taken_ms[50]:.1f} ms, p90 {taken_ms[90]:.1f} ms")


def test_an_app_that_would_decode_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="faust_app"):
        install_batches(faust.App("ordinary", broker="kafka://127.0.0.1:1"), Committed())


def test_a_batch_without_records_is_not_false() -> None:
    none = np.array([], np.int64)
    batch = Batch("plays", 3, 5, 6, 1, 0, 6, none, none, [], [], [])
    assert len(batch) == 0
    assert batch
    assert batch.tp == faust.types.TP("plays", 3)
    assert hash(batch.tp) == hash(TopicPartition("plays", 3)) == hash(TP("plays", 3))
