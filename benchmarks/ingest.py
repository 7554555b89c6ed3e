"""Ingest: one feature worker catches up on a log of events, Kafka to windowed features in Redis.

    python benchmarks/ingest.py [--stack kafka|embedded] [--events 1000000] [--preset small|full]

Starts a stack, publishes the events (not measured), starts the very worker that runs in
production, and measures from its first progress to the end of the log, while a reader reads 200
candidates again and again. Then the sums in Redis are compared with the log.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import redis
from aiokafka import AIOKafkaProducer

from tenuto import local
from tenuto.features.client import FeatureClient
from tenuto.features.reader import Reader, Request
from tenuto.features.store import Store
from tenuto.features.sums import ViewSums
from tenuto.features.windows import Window
from tenuto.local.processes import free_port
from tenuto.platform import Platform
from tenuto.presets import video
from tenuto.presets.video_events import play_reports
from tenuto.settings import Settings, environment, load
from tenuto.streams.partitions import partition_of
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import Sizes, Topics, plan

SHOWN = 10
START_MS = 1_700_000_000_000

full = Platform(
    "video-full", events=video.app.events, features=video.full, samples=video.app.samples
)

Log = dict[str, list[tuple[int, str, bytes]]]


def events(n: int, per_s: int, seed: int) -> Log:
    """By event name: (ts, request_id, value). Requests show ten items; all are clicked once, and
    every second click plays with three reports."""
    rng = np.random.default_rng(seed)
    requests = round(n / 12.5)

    def zipf(size: int, count: int) -> list[int]:
        weights = 1.0 / np.arange(1, size + 1)
        chosen: list[int] = rng.choice(size, count, p=weights / weights.sum()).tolist()
        return chosen

    items, queries = zipf(50_000, requests * SHOWN), zipf(20_000, requests)
    users = rng.integers(0, 100_000, requests).tolist()
    log: Log = {"impressions": [], "clicks": [], "plays": []}
    for number in range(requests):
        ts = START_MS + int(number * 12_500 / per_s)
        request_id = f"{number * 2_654_435_761 % 2**32:08x}-{number:08d}"
        base = {
            "request_id": request_id,
            "user_id": f"user-{users[number]:07d}",
            "query": f"query words {queries[number]}",
        }
        for at, item in enumerate(items[number * SHOWN : (number + 1) * SHOWN]):
            row = {**base, "item_id": f"item-{item:08d}", "position": at, "ts": ts + at}
            log["impressions"].append((ts + at, request_id, orjson.dumps(row)))
        at = number % SHOWN
        row = {**base, "item_id": f"item-{items[number * SHOWN + at]:08d}", "position": at}
        log["clicks"].append((ts + 20, request_id, orjson.dumps({**row, "ts": ts + 20})))
        if number % 2:
            for report in play_reports({"ts": ts + 20, "play_ms": 45_000, "duration_ms": 60_000}):
                log["plays"].append((report["ts"], request_id, orjson.dumps({**row, **report})))
    for rows in log.values():
        rows.sort(key=lambda row: row[0])
    return log


async def publish(log: Log, bootstrap: str, partitions: int) -> None:
    """Write the log in whole batches, each record stamped with its event time."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, max_batch_size=900_000, linger_ms=0)
    await producer.start()
    for topic, rows in log.items():
        homes = partition_of([row[1] for row in rows], partitions)
        for partition in range(partitions):
            batch = producer.create_batch()
            for at in np.flatnonzero(homes == partition).tolist():
                ts, request_id, value = rows[at]
                key = request_id.encode()
                if batch.append(key=key, value=value, timestamp=ts) is None:
                    await (await producer.send_batch(batch, topic, partition=partition))
                    batch = producer.create_batch()
                    batch.append(key=key, value=value, timestamp=ts)
            await (await producer.send_batch(batch, topic, partition=partition))
    await producer.stop()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Catching:
    """One catch-up: a worker, and what is looked at meanwhile."""

    stack: local.LocalStack
    settings: Settings
    platform: Platform
    log: Log

    def __post_init__(self) -> None:
        self.features = self.platform.feature_set(self.settings.time.rules())
        self.redis: redis.Redis = self.settings.redis.client()
        partitions = self.settings.kafka.partitions
        self.store = Store(self.redis, self.features.layout, partitions)
        self.client = FeatureClient(self.stack.redis_url, Reader(self.features, partitions))
        self.total = sum(map(len, self.log.values()))
        self.last_ts = max(rows[-1][0] for rows in self.log.values())
        self.read_ms: list[float] = []

    def run(self, worker_log: Path, reads_per_s: float) -> dict[str, Any]:
        """Figures of the catch-up."""
        env = {**os.environ, **environment(self.settings)}
        command = [sys.executable, "-m", "tenuto", "worker", "features"]
        with worker_log.open("wb") as out:
            worker = subprocess.Popen(command, env=env, stdout=out, stderr=out)
        try:
            while (done := self._done()) == 0:
                if worker.poll() is not None:
                    raise SystemExit(f"the worker ended: see {worker_log}")
                time.sleep(0.005)
            began, first = time.perf_counter(), done
            cpu = cpu_s(worker.pid), cpu_s(self.stack.redis_pid)
            while (done := self._done()) < self.total:
                if reads_per_s:
                    self._read()
                time.sleep(1 / reads_per_s if reads_per_s else 0.05)
                if worker.poll() is not None:
                    raise SystemExit(f"the worker ended: see {worker_log}")
            took, n = time.perf_counter() - began, self.total - first
            used = cpu_s(worker.pid) - cpu[0], cpu_s(self.stack.redis_pid) - cpu[1]
            writes = self._entity_writes()
        finally:
            worker.terminate()
            worker.wait(30)
        return {
            "events": self.total,
            "events_per_s": round(n / took),
            "measured_s": round(took, 2),
            "worker_cpu_us_per_event": round(used[0] / n * 1e6, 2),
            "redis_cpu_us_per_event": round(used[1] / n * 1e6, 2),
            "entity_writes_per_event": round(writes / self.total, 3),
            "redis_cpu_us_per_entity_write": round(used[1] / n / (writes / self.total) * 1e6, 2),
            **self._reads(),
            **self._sizes(),
            "wrong_totals": self.wrong_totals(),
        }

    def _done(self) -> int:
        offsets = self.store.next_offsets()
        return int(offsets[offsets > 0].sum())

    def _read(self) -> None:
        rng = np.random.default_rng(len(self.read_ms))
        candidates = [f"item-{item:08d}" for item in rng.integers(0, 2_000, 200)]
        request = Request("r", f"user-{rng.integers(100_000):07d}", "query words 0", self.last_ts)
        began = time.perf_counter()
        self.client.read(request, candidates, timeout_ms=5_000)
        self.read_ms.append((time.perf_counter() - began) * 1e3)

    def _reads(self) -> dict[str, float]:
        if not self.read_ms:
            return {}
        p50, p99 = np.quantile(self.read_ms, (0.5, 0.99))
        return {"reads": len(self.read_ms), "read_p50_ms": round(p50, 2),
                "read_p99_ms": round(p99, 2)}  # fmt: skip

    def _entity_writes(self) -> float:
        url = f"http://127.0.0.1:{self.settings.workers.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(x.split()[1]) for x in lines if x.startswith("tenuto_entity_writes_total"))

    def _keys(self) -> dict[int, list[bytes]]:
        keys: dict[int, list[bytes]] = defaultdict(list)
        for key in self.store.all_keys():
            if key != self.store.progress_key:
                keys[int(key[len(self.store.prefix) :].partition(b":")[0])].append(key)
        return keys

    def _sizes(self) -> dict[str, Any]:
        keys = self._keys()
        memory: Any = self.redis.info("memory")
        by_view = {}
        for view in self.features.layout.views:
            own = keys[view.index]
            some: list[Any] = [self.redis.memory_usage(key) for key in own[:200]]
            mean = round(sum(some) / max(1, len(some)))
            by_view[view.entity.name] = {
                "entities": len(own), "value_bytes": view.size, "bytes": mean,
            }  # fmt: skip
        entities = sum(map(len, keys.values()))
        return {
            "entities": entities,
            "bytes_per_entity": round(memory["used_memory"] / max(1, entities)),
            "views": by_view,
        }

    def wrong_totals(self) -> dict[str, tuple[int, int]]:
        """Counters whose sum over all items is not what the log says: (found, expected)."""
        view = self.features.layout.view(video.item)
        keys = self._keys()[view.index]
        wrong = {}
        for name, counter in (("impressions", "impressions"), ("clicks", "clicks")):
            measure, found = video.COUNTERS[counter], 0
            for at in range(0, len(keys), 1_000):
                values: Any = self.redis.mget(keys[at : at + 1_000])
                sums = ViewSums(view, values, self.last_ts)
                found += int(sums.total(measure, Window.of("7d")).sum())
            if found != len(self.log[name]):
                wrong[name] = (found, len(self.log[name]))
        return wrong


def main() -> None:
    """Run once and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--stack", choices=["kafka", "embedded"], default="kafka")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--preset", choices=["small", "full"], default="small")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--per-s", type=int, default=500, help="events a second, in event time")
    parser.add_argument("--reads-per-s", type=float, default=20.0, help="0 for no reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there")
    asked = parser.parse_args()
    log = events(asked.events, asked.per_s, asked.seed)
    with tempfile.TemporaryDirectory() as folder, local.start(asked.stack) as stack:
        settings = load(env={
            "TENUTO_KAFKA__BOOTSTRAP": stack.bootstrap,
            "TENUTO_KAFKA__PARTITIONS": str(asked.partitions),
            "TENUTO_KAFKA__REPLICATION_FACTOR": "1",
            "TENUTO_REDIS__URL": stack.redis_url,
            "TENUTO_APP": f"{Path(__file__).stem}:full" if asked.preset == "full" else
                "tenuto.presets.video:app",
            "TENUTO_WORKERS__LIVE": "false",
            "TENUTO_WORKERS__METRICS_PORT": str(free_port()),
        }).settings  # fmt: skip
        os.environ["PYTHONPATH"] = str(Path(__file__).parent)
        platform = full if asked.preset == "full" else video.app
        sizes = Sizes(settings.limits.event_bytes, settings.limits.snapshot_bytes)
        topics = plan(TopicNames(), platform.events, platform.samples,
                      partitions=asked.partitions, clock="driver",
                      sizes=sizes)  # fmt: skip
        with Topics(settings.kafka) as admin:
            admin.create(topics, replication_factor=1)
        asyncio.run(publish(log, stack.bootstrap, asked.partitions))
        catching = Catching(stack, settings, platform, log)
        figures = {"stack": asked.stack, "preset": asked.preset, **catching.run(
            Path(folder) / "worker.log", asked.reads_per_s
        )}  # fmt: skip
    for name, value in figures.items():
        print(f"{name:>30}  {value}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1))
    if figures["wrong_totals"]:
        raise SystemExit("the sums in Redis are not those of the log")


if __name__ == "__main__":
    main()
