"""Freshness: from the send of an event to the moment at which Redis shows it.

A probe is an impression of an item that nobody has seen; it is there once the item's key is. While
a share of the highest load arrives, probes are sent one after the other. Feast's ``push`` writes to
its online store without a log in between: its time is that of the call, and what is written is what
the caller computed.
"""

from __future__ import annotations

import gc
import time
from contextlib import ExitStack
from functools import partial

import numpy as np
import orjson
from kafka import KafkaProducer

from benchmarks import environments
from benchmarks.deployment import Deployment, stack_kind
from benchmarks.harness import OURS, Bench, Figures, percentiles
from benchmarks.pace import Pace
from benchmarks.world import World
from tenuto import local
from tenuto.features.aggregate import entity_key
from tenuto.presets import video
from tenuto.presets.video_events import impressions
from tenuto.streams.partitions import partition_of

TITLE = "Freshness: event → readable"
SHARES = (0.01, 0.5, 0.9)
_LOOK_EVERY_S = 0.0002
_GIVE_UP_S = 30.0
_SETTLE_S = 3.0


def run(bench: Bench) -> None:
    """The default preset at three loads and idle, and Feast."""
    kind = stack_kind()
    log = World(bench.size(400_000, 60_000)).log()
    seconds = float(bench.size(20, 5))
    with local.start(kind) as stack:
        ours = Deployment(stack, "small")
        ours.publish(log.records)
        highest = ours.catch_up(log.total)["events_per_s"]
        bench.note(f"highest load: {highest:,.0f} events/s, as the catch-up of a log shows it")

        def probed(share: float) -> Figures:
            with ExitStack() as open_ones:
                # What the round before could not keep up with is not this one's.
                ours.drain(open_ones.enter_context(ours.workers("features")))
                if share:
                    open_ones.enter_context(Pace(ours, highest * share))
                time.sleep(_SETTLE_S)
                return _figures(_probes(ours, seconds))

        sides = {f"{OURS}, idle": partial(probed, 0.0)}
        sides |= {f"{OURS}, {share:.0%} load": partial(probed, share) for share in SHARES}
        bench.interleave(sides, peer=partial(_feast, bench, stack.redis_url, seconds))
    idle, half = (bench.result.median(f"{OURS}, {load}", "p99_ms") for load in ("idle", "50% load"))
    bench.at_most("half load: p99 ≤ 50 ms", half, 50.0)
    bench.at_most("idle: p99 ≤ 5 ms", idle, 5.0)


def _probes(deployment: Deployment, seconds: float) -> list[float]:
    """Milliseconds of one probe after the other, for so long."""
    view = deployment.features.layout.view(video.item)
    topic = deployment.names.events([impressions])["impressions"]
    producer = KafkaProducer(bootstrap_servers=deployment.stack.bootstrap, linger_ms=0, acks="all")
    took_ms: list[float] = []
    # The log that was published is not to be looked through while probes are waited for.
    gc.freeze()
    run_id, end_s = time.time_ns(), time.perf_counter() + seconds
    try:
        while time.perf_counter() < end_s:
            number = len(took_ms)
            item, request_id = f"probe-{run_id}-{number}", f"probe-{run_id}-{number}"
            key = deployment.store.prefix + entity_key(view, (item,))
            now_ms = int(time.time() * 1_000)
            value = orjson.dumps({
                "request_id": request_id, "user_id": "user-probe", "query": "probe",
                "item_id": item, "position": 0, "ts": now_ms,
            })  # fmt: skip
            home = int(partition_of([request_id], deployment.partitions)[0])
            began_s = time.perf_counter()
            producer.send(
                topic, value, key=request_id.encode(), partition=home, timestamp_ms=now_ms
            )
            while not deployment.redis.exists(key):
                if time.perf_counter() - began_s > _GIVE_UP_S:
                    raise AssertionError(f"a probe was not readable within {_GIVE_UP_S:g} s")
                time.sleep(_LOOK_EVERY_S)
            took_ms.append((time.perf_counter() - began_s) * 1e3)
            # Not in step with anything.
            time.sleep(0.005 + 0.02 * np.random.default_rng(number).random())
    finally:
        producer.close()
    return took_ms


def _figures(took_ms: list[float]) -> Figures:
    return {**percentiles(took_ms, (50, 99, 99.9)), "probes": len(took_ms)}


def _feast(bench: Bench, redis_url: str, seconds: float) -> None:
    found = environments.run("feast", "freshness", {
        "redis": redis_url.removeprefix("redis://").partition("/")[0], "seconds": seconds,
        "shares": SHARES,
    })  # fmt: skip
    bench.measure("Feast, pushes of 100", {"rows_per_s": found["rows_per_s"]})
    bench.delivers("Feast", "push() of values that the caller has computed, and their read")
    for load, took_ms in found["took_ms"].items():
        bench.measure(f"Feast, {load}", _figures(took_ms))
    bench.check("Feast: values that were pushed and could not be read", found["wrong"], 0)
