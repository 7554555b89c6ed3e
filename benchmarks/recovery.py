"""How fast a lost Redis is rebuilt, against plain ingest of the same log by the same worker.

    python benchmarks/recovery.py --stack kafka --events 1000000

The worker reads the log into an empty Redis, FLUSHALL takes everything, and it reads it again: both
in one run, so the ratio says more than either figure. The pause is from the loss to the first
partition that the store knows again.
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
from pathlib import Path
from typing import Any

from ingest import Catching, events, publish

from tenuto import local
from tenuto.local.processes import free_port
from tenuto.presets import video
from tenuto.settings import Settings, environment, load
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import Sizes, Topics, plan

_LOOK_EVERY_S = 0.02


def measure(catching: Catching, settings: Settings, log_path: Path) -> dict[str, Any]:
    """Both passes over the log; the worker is the command that runs in production."""
    command = [sys.executable, "-m", "tenuto", "worker", "features"]
    with log_path.open("wb") as out:
        worker = subprocess.Popen(
            command, env={**os.environ, **environment(settings)}, stdout=out, stderr=out
        )

    def passed(since_s: float) -> tuple[float, float]:
        """Seconds until anything is there, and records a second from then on."""
        first, at = 0, 0.0
        while (done := catching._done()) < catching.total:
            if worker.poll() is not None:
                raise SystemExit(f"the worker ended: {log_path.read_text()[-2000:]}")
            if done and not first:
                first, at = done, time.perf_counter()
            time.sleep(_LOOK_EVERY_S)
        return at - since_s, (catching.total - first) / (time.perf_counter() - at)

    try:
        _, plain = passed(time.perf_counter())
        catching.redis.flushall()
        pause_s, rebuilt = passed(time.perf_counter())
        return {
            "events": catching.total,
            "plain_events_per_s": round(plain),
            "rebuilt_events_per_s": round(rebuilt),
            "ratio": round(rebuilt / plain, 2),
            "pause_s": round(pause_s, 2),
            "wrong_totals": catching.wrong_totals(),
        }
    finally:
        worker.terminate()
        worker.wait(60)


def main() -> None:
    """Run once and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--stack", choices=["kafka", "embedded"], default="kafka")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--per-s", type=int, default=500, help="events a second, in event time")
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
            "TENUTO_WORKERS__LIVE": "false",
            "TENUTO_WORKERS__METRICS_PORT": str(free_port()),
        }).settings  # fmt: skip
        sizes = Sizes(settings.limits.event_bytes, settings.limits.snapshot_bytes)
        topics = plan(TopicNames(), video.app.events, video.app.samples,
                      partitions=asked.partitions, clock="driver", sizes=sizes)  # fmt: skip
        with Topics(settings.kafka) as admin:
            admin.create(topics, replication_factor=1)
        asyncio.run(publish(log, stack.bootstrap, asked.partitions))
        catching = Catching(stack, settings, video.app, log)
        figures = {"stack": asked.stack,
                   **measure(catching, settings, Path(folder) / "worker.log")}  # fmt: skip
    for name, value in figures.items():
        print(f"{name:>30}  {value}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1))
    if figures["wrong_totals"]:
        raise SystemExit("the sums in Redis are not those of the log")


if __name__ == "__main__":
    main()
