"""A run under faults, as the injectors see it: servers, workers, clock, and what was noted."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from fault_drive import Clock, Later, WatchedOutbox
from fault_schedule import Schedule
from fault_servers import Servers
from kafka import KafkaConsumer, TopicPartition

from tenuto.drive.run import TRAINER, Run
from tenuto.features.buckets import Buckets

NAMES = {"features": "features", "join": "join-default", "sink": "sink-default", "train": TRAINER}
COMMANDS = {"features": ["worker", "features"], "join": ["worker", "join"]}
_GOES_ON_WITHIN_S = 60.0


@dataclass
class Field:
    """Everything of one run.

    Attributes:
        injected: faults that were done, by kind.
        recovered: seconds from a fault until the work it hurt went on.
        complaints: what a fault should have brought about and did not.
        whole: not set while a foreign hand has an entity's key.
    """

    schedule: Schedule
    servers: Servers
    run: Run
    store: Buckets
    outbox: WatchedOutbox
    clock: Clock
    folder: Path
    client: Any = None
    later: Later = field(default_factory=Later)
    injected: dict[str, int] = field(default_factory=dict)
    recovered: list[float] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    whole: threading.Event = field(default_factory=threading.Event)
    _hurt_at_s: list[float] = field(default_factory=list)
    _started: int = 0
    _soon: list[tuple[str, float, Callable[[], None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.whole.set()

    @property
    def redis(self) -> redis.Redis:
        """A client that goes around the proxy."""
        return self.servers.client()

    # Points of the run.

    def at(self, when: str, share: float, action: Callable[[], None]) -> None:
        """Do it at the first such point after this share of the run."""
        self._soon.append((when, share, action))

    def reach(self, when: str, share: float) -> None:
        """A point is reached: do what is due."""
        due = [one for one in self._soon if one[0] == when and share >= one[1]]
        for one in due:
            if one in self._soon:
                self._soon.remove(one)
                one[2]()

    @property
    def undone(self) -> int:
        """Faults that no point came for."""
        return len(self._soon)

    # Workers.

    def pids(self, kind: str) -> list[int]:
        """Process ids of all workers of a kind that the run keeps."""
        names = self.run.workers.all_restarts()
        stem = NAMES[kind]
        return [self.run.workers.pid(n) for n in names if n == stem or n.startswith(f"{stem}+")]

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a worker that may have ended."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return

    def start_another(self, kind: str) -> str:
        """Start one more worker of a kind; its name."""
        self._started += 1
        name = f"{NAMES[kind]}+{self._started}"
        instance = {"TENUTO_WORKERS__INSTANCE": f"more{self._started}"}
        self.run.workers.start(name, COMMANDS[kind], instance)
        return name

    def log(self, name: str) -> str:
        """What a worker has written to its log so far."""
        path = self.folder / "work/logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # Recovery.

    def hurt(self, kind: str) -> None:
        """Work of a kind was hurt now: note when it goes on."""
        if kind in ("join", "sink", "train"):
            self._watch(kind)
        else:
            self._hurt_at_s.append(time.monotonic())

    def features_are_there(self) -> None:
        """All that was published is readable: what hurt the features is over."""
        now_s = time.monotonic()
        self.recovered += [now_s - at_s for at_s in self._hurt_at_s]
        self._hurt_at_s.clear()

    def _watch(self, kind: str) -> None:
        before, started_s = self._work(kind), time.monotonic()

        def watch() -> None:
            while time.monotonic() - started_s < _GOES_ON_WITHIN_S:
                time.sleep(0.1)
                if self._work(kind) != before:
                    self.recovered.append(time.monotonic() - started_s)
                    return

        self.later.do(0.0, watch)

    def _work(self, kind: str) -> int:
        """A number that changes when a worker of this kind gets something done."""
        if kind == "sink":
            return sum(1 for _ in (self.folder / "samples").rglob("_manifests/*/*"))
        if kind == "train":
            return sum(1 for _ in (self.folder / "checkpoints").rglob("*"))
        try:
            consumer = KafkaConsumer(
                **self.run.settings.kafka.kafka_python(), group_id=None, enable_auto_commit=False
            )
        except Exception:
            return -1
        try:
            topic = self.run.names.of(self.run.platform.samples[0].topic)
            parts = [TopicPartition(topic, n) for n in range(self.schedule.partitions)]
            return int(sum(consumer.end_offsets(parts).values()))
        except Exception:
            return -1
        finally:
            consumer.close()
