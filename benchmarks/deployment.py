"""One application on a stack of servers: its topics, its log, its workers and what they leave."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from numpy.typing import NDArray

from benchmarks import apps
from benchmarks.world import Log, Record, publish
from tenuto.drive.scrape import Scrape
from tenuto.drive.workers import Workers
from tenuto.features.client import FeatureClient
from tenuto.features.entities import Counter
from tenuto.features.reader import Reader
from tenuto.features.store import Store
from tenuto.features.sums import ViewSums
from tenuto.features.windows import Window
from tenuto.local import Kind, LocalStack
from tenuto.local.processes import free_port
from tenuto.settings import environment, load
from tenuto.snapshot.sample_topic import SampleTopic
from tenuto.streams.heartbeats import heartbeat
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import Topics
from tenuto.topic_plan import topic_plan

ROOT = Path(__file__).parents[1]
"""Of the checkout, where ``python -m benchmarks.…`` runs."""
_LOOK_EVERY_S = 0.02
# What a scrape takes is the worker's time.
_SCRAPE_EVERY_S = 0.1
_WARM = 0.3
_MONTH_MS = 30 * 86_400_000
_KEYS_AT_ONCE = 1_000

COMMANDS = {
    "features": ["worker", "features"],
    "join": ["worker", "join"],
    "sink": ["sink", "parquet"],
    "train": ["train"],
}


@dataclass
class Running:
    """Processes of a deployment.

    Attributes:
        workers: that keeps them.
        scrapes: the metrics of each.
    """

    workers: Workers
    scrapes: dict[str, Scrape]

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all of them so far."""
        return sum(cpu_s(self.workers.pid(name)) for name in self.scrapes)

    @property
    def resident_bytes(self) -> int:
        """What all of them hold in memory now."""
        return sum(resident_bytes(self.workers.pid(name)) for name in self.scrapes)

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels and over all of them."""
        return sum(scrape.total(name) for scrape in self.scrapes.values())

    def check(self) -> None:
        """Insist that none has ended: what is measured then would be something else.

        Raises:
            RuntimeError: one has.
        """
        self.workers.check()
        if any(self.workers.all_restarts().values()):
            raise RuntimeError("a worker has ended and was started again")


class Deployment:
    """An application of ``benchmarks.apps`` under a namespace of its own.

    Args:
        stack: where it runs.
        app: name in ``benchmarks.apps``.
        partitions: of every topic.
        namespace: of its topics and keys; the application's name by default.
        given: further settings, as environment variables.
    """

    def __init__(
        self,
        stack: LocalStack,
        app: str,
        *,
        partitions: int = 4,
        namespace: str = "",
        given: Mapping[str, str] | None = None,
    ) -> None:
        self.stack = stack
        self.platform = getattr(apps, app)
        self.settings = load(env={
            "TENUTO_APP": f"benchmarks.apps:{app}",
            "TENUTO_NAMESPACE": namespace or app,
            "TENUTO_KAFKA__BOOTSTRAP": stack.bootstrap,
            "TENUTO_KAFKA__PARTITIONS": str(partitions),
            "TENUTO_KAFKA__REPLICATION_FACTOR": "1",
            "TENUTO_REDIS__URL": stack.redis_url,
            "TENUTO_WORKERS__LIVE": "false",
            **(given or {}),
        }).settings  # fmt: skip
        self.names = TopicNames(self.settings.namespace)
        self.features = self.platform.feature_set(self.settings.time.rules())
        self.partitions = partitions
        self.redis = self.settings.redis.client()
        self.store = Store(
            self.redis, self.features.layout, partitions, namespace=self.settings.namespace
        )
        with Topics(self.settings.kafka) as admin:
            admin.create(topic_plan(self.settings, self.platform), replication_factor=1)

    @property
    def env(self) -> dict[str, str]:
        """Environment of a process of this application."""
        return environment(self.settings) | {"PYTHONPATH": str(ROOT)}

    def publish(self, records: Mapping[str, list[Record]]) -> None:
        """Write records of events to the topics of this application."""
        named = {self.names.of(name): rows for name, rows in records.items()}
        publish(named, self.stack.bootstrap, self.partitions)

    def recreate(self, topic: str) -> None:
        """Make a topic anew, empty."""
        (one,) = (t for t in topic_plan(self.settings, self.platform) if t.name == topic)
        with Topics(self.settings.kafka) as admin:
            admin.delete([one])
            admin.create([one], replication_factor=1)

    def end(self, last_ts_ms: int) -> None:
        """Say in every input topic that nothing more comes."""
        mark = heartbeat(end=True)
        topics = [self.names.snapshots, *self.names.events(self.platform.events).values()]
        producer = KafkaProducer(bootstrap_servers=self.stack.bootstrap)
        for topic in topics:
            for partition in range(self.partitions):
                producer.send(
                    topic, mark.value, partition=partition, headers=mark.headers,
                    timestamp_ms=last_ts_ms + _MONTH_MS,
                )  # fmt: skip
        producer.flush()
        producer.close()

    @property
    def samples_topic(self) -> str:
        """Topic of the application's sample stream."""
        return self.names.of(self.platform.samples[0].topic)

    def join(self, rows: int) -> dict[str, float]:
        """Join all that the topics hold into an empty samples topic; figures of the last 70 %.

        Args:
            rows: that come of it.
        """
        self.recreate(self.samples_topic)
        first, began_s, spent_s = 0, 0.0, 0.0
        with self.workers("join") as running:
            while (done := int(running.metric("tenuto_samples_total"))) < rows:
                if not first and done >= rows * _WARM:
                    first, began_s, spent_s = done, time.perf_counter(), running.cpu_s
                running.check()
                time.sleep(_SCRAPE_EVERY_S)
            took_s, spent_s = time.perf_counter() - began_s, running.cpu_s - spent_s
            # Whoever reads it to its end marks waits for them, and they come after the rows.
            to_the_end = SampleTopic(self.samples_topic, self.stack.bootstrap, follow=True)
            for _ in to_the_end.batches([]):
                pass
        return {
            "impressions_per_s": (rows - first) / took_s,
            "cpu_us_per_impression": spent_s / (rows - first) * 1e6,
        }

    def audit(self, *arguments: str) -> str:
        """What ``tenuto audit --state`` finds in what is left behind, while nobody writes to it.

        Args:
            arguments: further ones.

        Returns:
            Its findings; empty where all is equal to what the log says, computed in another way.
        """
        done = subprocess.run(
            [sys.executable, "-m", "tenuto", "audit", "--state", *arguments],
            env=os.environ | self.env, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def client(self) -> FeatureClient:
        """A reader of its features."""
        reader = Reader(self.features, self.partitions, namespace=self.settings.namespace)
        return FeatureClient(self.stack.redis_url, reader)

    @contextmanager
    def workers(self, *kinds: str) -> Iterator[Running]:
        """One process for each kind named (see ``COMMANDS``), as they run in production."""
        with tempfile.TemporaryDirectory() as folder, Workers(self.env, Path(folder)) as workers:
            scrapes = {}
            for at, kind in enumerate(kinds):
                name, port = f"{kind}-{at}", free_port()
                workers.start(name, COMMANDS[kind], {"TENUTO_WORKERS__METRICS_PORT": str(port)})
                scrapes[name] = Scrape(f"http://127.0.0.1:{port}/metrics", every_s=0.0)
            yield Running(workers, scrapes)

    def done(self) -> int:
        """Records of which Redis holds the effects."""
        offsets = self.store.next_offsets()
        return int(offsets[offsets > 0].sum())

    def drain(self, running: Running, timeout_s: float = 300.0) -> None:
        """Wait until Redis holds the effects of all that the topics of its events hold.

        Raises:
            TimeoutError: it does not, in time.
        """
        names = self.names.events(self.platform.events)
        partitions = [
            TopicPartition(names[event], partition)
            for event in self.features.layout.topics
            for partition in range(self.partitions)
        ]
        consumer = KafkaConsumer(bootstrap_servers=self.stack.bootstrap)
        total = sum(consumer.end_offsets(partitions).values())
        consumer.close()
        give_up_s = time.monotonic() + timeout_s
        while (done := self.done()) < total:
            if time.monotonic() > give_up_s:
                raise TimeoutError(f"{total - done} of {total} records are not in Redis")
            running.check()
            time.sleep(_LOOK_EVERY_S)

    def catch_up(self, total: int, workers: int = 1) -> dict[str, float]:
        """Read the whole log into an empty Redis; figures of its last 70 %, when all work.

        Args:
            total: records of the log.
            workers: how many read it.
        """
        self.redis.flushall()
        with self.workers(*["features"] * workers) as running:
            first, began_s, used_s = 0, 0.0, (0.0, 0.0)
            while (done := self.done()) < total:
                if not first and done >= total * _WARM:
                    first, began_s = done, time.perf_counter()
                    used_s = running.cpu_s, cpu_s(self.stack.redis_pid)
                running.check()
                time.sleep(_LOOK_EVERY_S)
            took_s, n = time.perf_counter() - began_s, total - first
            # It begins where a window can still need an event: not that of a log that is too long.
            assert first < 2 * _WARM * total, f"of {total} records {first} were passed over"
            spent_s = running.cpu_s - used_s[0], cpu_s(self.stack.redis_pid) - used_s[1]
            writes = running.metric("tenuto_entity_writes_total")
        return {
            "events_per_s": n / took_s,
            "worker_cpu_us_per_event": spent_s[0] / n * 1e6,
            "redis_cpu_us_per_event": spent_s[1] / n * 1e6,
            "entity_writes_per_event": writes / total,
        }

    def sizes(self) -> dict[str, float]:
        """Entities in Redis and what they take."""
        keys = self.keys()
        entities = sum(map(len, keys.values()))
        memory: Any = self.redis.info("memory")
        figures = {
            "entities": float(entities),
            "redis_bytes_per_entity": memory["used_memory"] / max(1, entities),
        }
        for view in self.features.layout.views:
            some: list[Any] = [self.redis.memory_usage(key) for key in keys[view.index][:200]]
            figures[f"{view.entity.name}_bytes"] = sum(some) / max(1, len(some))
        return figures

    def keys(self) -> dict[int, list[bytes]]:
        """Keys of all entities by the index of their view."""
        found: dict[int, list[bytes]] = defaultdict(list)
        for key in self.store.all_keys():
            if key != self.store.progress_key:
                found[int(key[len(self.store.prefix) :].partition(b":")[0])].append(key)
        return found

    def total_of(self, counter: Counter, window: str, as_of_ms: int) -> int:
        """What a counter adds up to over all entities that Redis holds."""
        view = self.features.layout.view(counter.entity)
        keys, found = self.keys()[view.index], 0
        for at in range(0, len(keys), _KEYS_AT_ONCE):
            values: Any = self.redis.mget(keys[at : at + _KEYS_AT_ONCE])
            sums = ViewSums(view, values, as_of_ms)
            found += int(sums.total(counter.measure, Window.of(window)).sum())
        return found


def stack_kind() -> Kind:
    """Apache Kafka where this machine has one: peers know no other broker."""
    return "kafka" if os.environ.get("KAFKA_HOME") else "embedded"


def inside(log: Log, window: str) -> NDArray[np.bool_]:
    """Which impressions lie in a window as of the log's last event: ``(impressions,) bool``."""
    of = Window.of(window)
    tile = log.ts_ms // of.tile_ms
    return tile > log.last_ts_ms // of.tile_ms - of.tiles


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """What a process holds in memory now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
