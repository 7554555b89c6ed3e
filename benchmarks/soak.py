"""Soak: real workers under churning ids for an hour, and whether their memory stays flat.

    python -m benchmarks.soak [--minutes 60] [--rate 20000] [--stack kafka|embedded] [--json FILE]

Starts a stack and the very processes that run in production (features, joiner, sink; a trainer
with ``--trainer``), sends events in real time, reads and captures as a ranker does, and looks at
every process once a minute. The verdict is the slope of the second half. Windows are of minutes
(``soak_app``), topics keep eight minutes, and old sample files are deleted as a consumer would:
so everything that may grow has come to rest well before the first half is over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import redis
from aiokafka import AIOKafkaProducer

import tenuto
from benchmarks.soak_app import SETTINGS, app
from benchmarks.soak_traffic import EVENTS_A_REQUEST, Due, Sent, Traffic
from benchmarks.world import whole_batches
from tenuto import local
from tenuto.drive.scrape import Scrape
from tenuto.drive.workers import Workers
from tenuto.features.deadline import StoreUnavailableError
from tenuto.features.reader import Request
from tenuto.local.processes import free_port
from tenuto.settings import Settings, environment, load
from tenuto.streams.partitions import partition_of
from tenuto.streams.topics import Topics
from tenuto.topic_plan import topic_plan

ROLES = {
    "features": ["worker", "features"],
    "joiner": ["worker", "join"],
    "sink": ["sink", "parquet"],
    "trainer": ["train"],
}
# Metrics of the workers that each line shows.
WATCHED = {
    "features": ("tenuto_events_total", "tenuto_consumer_lag_records", "tenuto_swept_keys_total",
                 "tenuto_dead_letters_total"),
    "joiner": ("tenuto_samples_total", "tenuto_consumer_lag_records", "tenuto_label_memory_bytes",
               "tenuto_snapshots_waiting"),
    "sink": ("tenuto_sink_rows_total", "tenuto_consumer_lag_records"),
    "trainer": ("tenuto_trainer_batches_total", "tenuto_consumer_lag_records",
                "tenuto_trainer_ids", "tenuto_trainer_pending_ids",
                "tenuto_trainer_waiting_rows"),
}  # fmt: skip
# A second half that grows by less than both of these together is flat: allocators breathe.
FLAT_SHARE, FLAT_MB = 0.05, 8.0
# Old files are taken away after so long.
KEEP_FILES_S = 120.0
READS_PER_S = 5.0


@dataclass
class Soak:
    """What runs, and what was seen of it."""

    settings: Settings
    workers: Workers
    ports: dict[str, int]
    pids: dict[str, int]
    samples_dir: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0
    late_s: float = 0.0

    def __post_init__(self) -> None:
        self.redis: redis.Redis = self.settings.redis.client()
        self.scrapes = {
            role: Scrape(f"http://127.0.0.1:{port}/metrics") for role, port in self.ports.items()
        }
        self.began_s = time.monotonic()

    def run(self, minutes: float, rate: float, every_s: float) -> None:
        """Send, read and look until the time is over."""
        stopping = threading.Event()
        ranker = threading.Thread(target=self._rank, args=(stopping,), daemon=True)
        ranker.start()
        try:
            asyncio.run(self._send(minutes, rate, every_s))
        finally:
            stopping.set()
            ranker.join(10)

    async def _send(self, minutes: float, rate: float, every_s: float) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.settings.kafka.bootstrap, max_batch_size=900_000, linger_ms=0
        )
        await producer.start()
        traffic, due, made = Traffic(int(time.time() * 1e3)), Due(), 0
        self.began_s, look_s = time.monotonic(), every_s
        try:
            while (now_s := time.monotonic() - self.began_s) < minutes * 60:
                self.workers.check()
                now_ms = int(time.time() * 1e3)
                wanted = int(now_s * rate / EVENTS_A_REQUEST)
                # After a stall what was missed is not made up: this measures memory, not speed.
                behind_s = (wanted - made) * EVENTS_A_REQUEST / rate
                if behind_s > 2.0:
                    self.late_s += behind_s
                    made = wanted
                while made < wanted:
                    due.add(traffic.request(now_ms))
                    made += 1
                await self._publish(producer, due.until(now_ms))
                if now_s >= look_s:
                    await asyncio.to_thread(self.look)
                    look_s += every_s
                await asyncio.sleep(max(0.0, 0.5 - (time.monotonic() - self.began_s - now_s)))
        finally:
            await producer.stop()

    async def _publish(self, producer: AIOKafkaProducer, records: list[Sent]) -> None:
        partitions = self.settings.kafka.partitions
        homes = partition_of([one.key.decode() for one in records], partitions)
        batches: defaultdict[tuple[str, int], list[Sent]] = defaultdict(list)
        for one, home in zip(records, homes.tolist(), strict=True):
            batches[one.topic, home].append(one)
            self.sent += one.topic != "snapshots"
        waiting = []
        for (topic, partition), some in batches.items():
            for batch in whole_batches(producer, ((o.due_ms, o.key, o.value) for o in some)):
                waiting.append(await producer.send_batch(batch, topic, partition=partition))
        await asyncio.gather(*waiting)

    def _rank(self, stopping: threading.Event) -> None:
        """Read and capture a few requests a second, with the client of a serving tier."""
        client = tenuto.connect(app, settings=self.settings)
        traffic = Traffic(int(time.time() * 1e3) + 1, seed=2)
        while not stopping.wait(1 / READS_PER_S):
            now_ms = int(time.time() * 1e3)
            request = Request(f"read-{uuid.uuid4().hex}", f"reader-{now_ms}", "q", now_ms)
            candidates = list(dict.fromkeys(traffic.candidates(now_ms, 50)))
            try:
                matrix = client.read(request, candidates, timeout_ms=1_000)
            except StoreUnavailableError:
                continue
            client.capture(request, shown=candidates[:10], matrix=matrix)
        client.close()

    def look(self) -> None:
        """One line: memory of every process, of Redis, and what the workers say."""
        self._forget_files()
        pids = {**self.pids, **{role: self.workers.pid(role) for role in self.ports}}
        info: Any = self.redis.info()
        line: dict[str, Any] = {
            "minute": round((time.monotonic() - self.began_s) / 60, 2),
            "sent": self.sent,
            **{f"{name}_mb": own_mb(pid) for name, pid in pids.items()},
            "redis_used_mb": round(info["used_memory"] / 2**20, 1),
            "redis_keys": self.redis.dbsize(),
            "restarts": sum(self.workers.all_restarts().values()),
        }
        for role, scrape in self.scrapes.items():
            for metric in WATCHED[role]:
                short = metric.removeprefix("tenuto_").removesuffix("_total")
                line[f"{role}.{short}"] = int(scrape.total(metric))
        self.lines.append(line)
        print(json.dumps(line), flush=True)

    def _forget_files(self) -> None:
        before_s = time.time() - KEEP_FILES_S
        for path in self.samples_dir.glob("day=*/hour=*/*.parquet"):
            if path.stat().st_mtime < before_s:
                path.unlink()

    def figures(self) -> dict[str, Any]:
        """Verdicts of the second half of the lines."""
        half = self.lines[len(self.lines) // 2 :]
        names = [name for name in half[0] if name.endswith("_mb")] if half else []
        minutes = np.array([line["minute"] for line in half])
        verdicts = {name: verdict(minutes, [line[name] for line in half]) for name in names}
        took_s = max(1.0, time.monotonic() - self.began_s)
        last = self.lines[-1] if self.lines else {}
        return {
            "events_sent": self.sent,
            "behind_s": round(
                last.get("features.consumer_lag_records", 0) / max(1.0, self.sent / took_s), 1
            ),
            "restarts": last.get("restarts", 0),
            "events_per_s": round(self.sent / took_s),
            "not_sent_s": round(self.late_s, 1),
            "verdicts": verdicts,
            "flat": all(one["flat"] for one in verdicts.values()),
            "lines": self.lines,
        }


def own_mb(pid: int) -> float:
    """Memory of a process's own, MB: without the pages of files that it maps."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    own = [line.split()[1] for line in lines if line.startswith(("RssAnon", "RssShmem"))]
    return round(sum(map(int, own)) / 1024, 1)


def verdict(minutes: Any, megabytes: list[float]) -> dict[str, Any]:
    """Mean, slope and whether it is flat, of one process's second half."""
    if len(megabytes) < 3:
        return {"mean_mb": float(np.mean(megabytes)), "mb_per_hour": 0.0, "flat": False}
    slope = float(np.polyfit(minutes, megabytes, 1)[0])
    grown, mean = slope * float(minutes[-1] - minutes[0]), float(np.mean(megabytes))
    return {
        "mean_mb": round(mean, 1),
        "max_mb": max(megabytes),
        "mb_per_hour": round(slope * 60, 1),
        "flat": grown < FLAT_SHARE * mean + FLAT_MB,
    }


def main() -> None:
    """Run once and print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=20_000, help="events a second")
    parser.add_argument("--stack", choices=["kafka", "embedded"], default="kafka")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--every-s", type=float, default=60.0, help="how often it is looked")
    parser.add_argument("--trainer", action="store_true", help="a trainer learns along")
    parser.add_argument("--json", type=Path, help="write the figures there")
    asked = parser.parse_args()
    # An orderly end, which removes what was written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    roles = [role for role in ROLES if role != "trainer" or asked.trainer]
    with tempfile.TemporaryDirectory(prefix="soak-") as name, local.start(asked.stack) as stack:
        folder = Path(name)
        settings = load(env={
            "TENUTO_KAFKA__BOOTSTRAP": stack.bootstrap,
            "TENUTO_KAFKA__PARTITIONS": str(asked.partitions),
            "TENUTO_KAFKA__REPLICATION_FACTOR": "1",
            "TENUTO_REDIS__URL": stack.redis_url,
            "TENUTO_SINK__DIR": str(folder / "samples"),
            "TENUTO_TRAINER__STORE": str(folder / "checkpoints"),
            **SETTINGS,
        }).settings  # fmt: skip
        # A broker deletes whole segments: of the default gigabyte it would keep hours.
        topics = [
            replace(topic, settings={**topic.settings, "segment.bytes": str(64 << 20)})
            for topic in topic_plan(settings, app)
        ]
        with Topics(settings.kafka) as admin:
            admin.create(topics, replication_factor=1)
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        ports = {role: free_port() for role in roles}
        with Workers({**environment(settings), "PYTHONPATH": path}, folder / "logs") as workers:
            for role in roles:
                own = {"TENUTO_WORKERS__METRICS_PORT": str(ports[role])}
                workers.start(role, ROLES[role], own)
            pids = {"redis": stack.redis_pid, "broker": stack.broker_pid, "sender": os.getpid()}
            soak = Soak(settings, workers, ports, pids, folder / "samples")
            try:
                soak.run(asked.minutes, asked.rate, asked.every_s)
            finally:
                figures = {"stack": asked.stack, "rate": asked.rate, **soak.figures()}
                if asked.json:
                    asked.json.write_text(json.dumps(figures, indent=1))
                for role in roles:
                    log = (folder / "logs" / f"{role}.log").read_text(errors="replace")
                    print(f"--- {role}: {log[-1500:]}")
    for process, found in figures["verdicts"].items():
        print(f"{process:>16}  {found}")
    print("flat" if figures["flat"] else "NOT flat", f"at {figures['events_per_s']} events/s,",
          f"{figures['behind_s']} s behind at the end, {figures['restarts']} restarts")  # fmt: skip


if __name__ == "__main__":
    main()
