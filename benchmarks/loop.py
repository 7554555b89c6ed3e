"""The whole loop on this machine: how many requests a second it bears, all of it at work.

A serving tier of two processes reads 50 candidates, scores them with the checkpoint in force,
captures the ten shown and sends their events; features, joiner, sink and trainer follow, broker and
Redis included. The load goes up in steps; a step is borne when nothing lags more than a few seconds
at its end. What each process spends on a request is told of every step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.deployment import ROOT, Deployment, Running, cpu_s, stack_kind
from benchmarks.harness import Bench, percentiles
from benchmarks.soak_app import SETTINGS
from benchmarks.world import SHOWN
from tenuto import local

TITLE = "Whole loop: requests a second with everything on one machine"
STEPS = (50, 100, 200, 300, 400, 500, 600, 800)
CANDIDATES = 50
_EVENTS_A_REQUEST = SHOWN + 1
# Until the first labels are final and the first checkpoint is in force.
_WARM_PER_S = 20
_LAG_S = 5.0
_CLIENTS = 2


def run(bench: Bench) -> None:
    """Steps until one is not borne."""
    kind = stack_kind()
    with tempfile.TemporaryDirectory() as folder, local.start(kind) as stack:
        given = {name: value for name, value in SETTINGS.items() if name != "TENUTO_APP"} | {
            "TENUTO_WORKERS__LIVE": "true" if kind == "kafka" else "false",
            "TENUTO_SINK__DIR": f"{folder}/samples",
            "TENUTO_SINK__SNAPSHOTS_PER_FILE": "100",
            "TENUTO_TRAINER__STORE": f"{folder}/checkpoints",
            "TENUTO_TIME__LATENESS": "5s",
            "TENUTO_TIME__SNAPSHOT_LATENESS": "5s",
            "TENUTO_TRAINER__CHECKPOINT_EVERY": "20s",
        }
        ours = Deployment(stack, "live", given=given)
        with ours.workers("features", "join", "sink", "train") as running:
            _step(ours, _WARM_PER_S, bench.size(300, 180), running)
            highest = 0.0
            for per_s in STEPS[: bench.size(len(STEPS), 2)]:
                told = _step(ours, per_s, bench.size(60, 15), running)
                bench.measure(f"{per_s} requests/s asked for", told)
                if told["lag_s"] > _LAG_S or told["requests_per_s"] < 0.95 * per_s:
                    break
                highest = told["requests_per_s"]
            rows = running.metric("tenuto_sink_rows_total")
            batches = running.metric("tenuto_trainer_batches_total")
            running.check()
        found = ours.audit("--share", "0.1")
        bench.check("audit of state, snapshots and samples: findings", found, "")
        bench.check("rows came to files", rows > 0, True)
        bench.check("batches were learnt", batches > 0, True)
        bench.measure("borne", {
            "requests_per_s": highest, "events_per_s": highest * _EVENTS_A_REQUEST,
        })  # fmt: skip


def _step(ours: Deployment, per_s: float, seconds: float, running: Running) -> dict[str, float]:
    """Serve for so long; what the clients tell, and what every process spent on a request."""
    pids = {name.partition("-")[0]: running.workers.pid(name) for name in running.scrapes} | {
        "broker": ours.stack.broker_pid, "redis": ours.stack.redis_pid,
    }  # fmt: skip
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    told = _serve(ours, per_s, seconds, running)
    spent_s = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
    spent_s["clients"] = sum(one["cpu_s"] for one in told)
    requests = sum(one["requests"] for one in told)
    took_ms = [ms for one in told for ms in one["took_ms"]]
    achieved = sum(one["requests"] / one["seconds"] for one in told)
    behind = running.scrapes["features-0"].total("tenuto_consumer_lag_records")
    return {
        "requests_per_s": achieved, **percentiles(took_ms),
        "scored_share": sum(one["scored"] for one in told) / requests,
        "lag_s": behind / max(1.0, achieved * _EVENTS_A_REQUEST),
        **{f"{name}_cpu_ms": s / requests * 1e3 for name, s in spent_s.items()},
    }  # fmt: skip


def _serve(
    ours: Deployment, per_s: float, seconds: float, running: Running
) -> list[dict[str, Any]]:
    """Have clients of their own processes serve for so long; what each tells."""
    asked = json.dumps({
        "per_s": per_s / _CLIENTS, "seconds": seconds, "candidates": CANDIDATES, "shown": SHOWN,
        "model": ours.platform.name, "topic": ours.names.checkpoints,
    })  # fmt: skip
    clients = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.loop_client", asked],
            env=os.environ | ours.env, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for _ in range(_CLIENTS)
    ]  # fmt: skip
    with ThreadPoolExecutor(_CLIENTS) as pool:
        printed = [pool.submit(client.communicate) for client in clients]
        while any(client.poll() is None for client in clients):
            running.check()
            time.sleep(0.2)
        if any(client.returncode for client in clients):
            raise RuntimeError("a serving client ended with an error")
        return [json.loads(out.result()[0].strip().splitlines()[-1]) for out in printed]
