"""The whole loop on this machine: how many requests a second it bears, all of it at work.

A serving tier reads 50 candidates, scores them with the checkpoint in force, captures the ten shown
and sends their events; features, joiner, sink and trainer follow, broker and Redis included. The
load goes up in steps; a step is borne when nothing lags more than a few seconds at its end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.deployment import ROOT, Deployment, Running, stack_kind
from benchmarks.harness import Bench
from benchmarks.soak_app import SETTINGS
from benchmarks.world import SHOWN
from tenuto import local

TITLE = "Whole loop: requests a second with everything on one machine"
STEPS = (50, 100, 200, 300, 400, 500, 600, 800)
CANDIDATES = 50
# Until the first labels are final and the first checkpoint is in force.
_WARM_PER_S = 20
_LAG_S = 5.0


def run(bench: Bench) -> None:
    """Steps until one is not borne."""
    kind = stack_kind()
    with tempfile.TemporaryDirectory() as folder, local.start(kind) as stack:
        given = {name: value for name, value in SETTINGS.items() if name != "TENUTO_APP"} | {
            "TENUTO_WORKERS__LIVE": "true" if kind == "kafka" else "false",
            "TENUTO_SINK__DIR": f"{folder}/samples",
            "TENUTO_TRAINER__STORE": f"{folder}/checkpoints",
            "TENUTO_TRAINER__CHECKPOINT_EVERY": "1m",
        }
        ours = Deployment(stack, "live", given=given)
        with ours.workers("features", "join", "sink", "train") as running:
            _serve(ours, _WARM_PER_S, bench.size(300, 270), running)
            highest = 0.0
            for per_s in STEPS[: bench.size(len(STEPS), 2)]:
                told = _serve(ours, per_s, bench.size(60, 15), running)
                told["lag_s"] = _lag_s(running, told["requests_per_s"])
                bench.measure(f"{per_s} requests/s asked for", {
                    name: told[name]
                    for name in ("requests_per_s", "p50_ms", "p99_ms", "scored_share", "lag_s")
                })  # fmt: skip
                borne = told["lag_s"] <= _LAG_S and told["requests_per_s"] >= 0.95 * per_s
                if not borne:
                    break
                highest = told["requests_per_s"]
            rows = running.metric("tenuto_sink_rows_total")
            batches = running.metric("tenuto_trainer_batches_total")
            running.check()
        bench.check("rows came to files, and batches were learnt", rows > 0 and batches > 0, True)
        bench.measure("borne", {"requests_per_s": highest, "events_per_s": highest * 12})


def _serve(ours: Deployment, per_s: float, seconds: float, running: Running) -> dict[str, Any]:
    """Have a client of its own process serve for so long; what it tells."""
    asked = {"per_s": per_s, "seconds": seconds, "candidates": CANDIDATES, "shown": SHOWN,
             "model": ours.platform.name, "topic": ours.names.checkpoints}  # fmt: skip
    client = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.loop_client", json.dumps(asked)],
        env=os.environ | ours.env, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    while client.poll() is None:
        running.check()
        time.sleep(0.2)
    assert client.stdout is not None
    if client.returncode:
        raise RuntimeError("the serving client ended with an error")
    told: dict[str, Any] = json.loads(client.stdout.read().strip().splitlines()[-1])
    return told


def _lag_s(running: Running, requests_per_s: float) -> float:
    """Seconds of the load that the feature workers have not read yet."""
    behind = running.scrapes["features-0"].total("tenuto_consumer_lag_records")
    return behind / max(1.0, requests_per_s * (SHOWN + 2))
