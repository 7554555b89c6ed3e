"""Growth: what an event costs while events and entities grow, and how fast a lost Redis is rebuilt.

One worker counts items and users over five minutes while the log goes on; each part's cost is the
processor time of the worker and of Redis, which other processes do not change. A part lasts longer
than the window, so that the last sums are of the last part alone. Then the default preset loses its
Redis and reads its log again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks import apps
from benchmarks.deployment import Deployment, cpu_s, inside, resident_bytes, stack_kind
from benchmarks.harness import OURS, Bench
from benchmarks.world import START_MS, World
from tenuto import local
from tenuto.local import LocalStack

TITLE = "Growth: cost per event, memory, and recovery of an emptied Redis"
_FIRST_IDS = 5_000
_PART_S = 500
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class _Part:
    """A part of the log: its events, and how many items and users there are by then."""

    events: int
    ids: int


def run(bench: Bench) -> None:
    """Growth in parts, then recovery."""
    kind = stack_kind()
    with local.start(kind) as stack:
        _grow(bench, stack)
    with local.start(kind) as stack:
        _recover(bench, stack)


def _parts(bench: Bench) -> list[_Part]:
    size, number = bench.size(1_000_000, 100_000), bench.size(50, 5)
    most = bench.size(2_500_000, 250_000)
    growth = (most / _FIRST_IDS) ** (1 / (number - 1))
    return [_Part(size, round(_FIRST_IDS * growth**at)) for at in range(number)]


def _grow(bench: Bench, stack: LocalStack) -> None:
    ours = Deployment(stack, "counts")
    parts = _parts(bench)
    told = {1, len(parts) // 10, len(parts) // 5, len(parts) // 2, len(parts)}
    costs: dict[int, float] = {}
    events, start_ms = 0, START_MS
    with ours.workers("features") as running:
        for number, part in enumerate(parts, 1):
            world = World(
                part.events, per_s=part.events // _PART_S, items=part.ids, users=part.ids,
                actions=False, seed=number, start_ms=start_ms, even=True,
            )  # fmt: skip
            log = world.log()
            start_ms = log.last_ts_ms + 1_000
            before_s = running.cpu_s, cpu_s(stack.redis_pid)
            ours.publish(log.records)
            events += log.total
            while ours.done() < events:
                running.check()
                time.sleep(_LOOK_EVERY_S)
            spent_s = running.cpu_s - before_s[0], cpu_s(stack.redis_pid) - before_s[1]
            costs[number] = sum(spent_s) / log.total * 1e6
            if number in told:
                bench.measure(f"{events / 1e6:g}M events", {
                    "worker_cpu_us_per_event": spent_s[0] / log.total * 1e6,
                    "redis_cpu_us_per_event": spent_s[1] / log.total * 1e6,
                    "entities": sum(map(len, ours.keys().values())),
                    "worker_megabytes": running.resident_bytes / 1e6,
                    "redis_megabytes": resident_bytes(stack.redis_pid) / 1e6,
                })  # fmt: skip
        found = ours.total_of(apps.item.impressions, "5m", log.last_ts_ms)
        bench.check("sum over the last window", found, int(inside(log, "5m").sum()))
    first, last = costs[min(costs)], costs[max(costs)]
    bench.at_most("cost of an event, last part over first: flat (≤ 1.2)", last / first, 1.2)


def _recover(bench: Bench, stack: LocalStack) -> None:
    log = World(bench.size(1_000_000, 150_000)).log()
    ours = Deployment(stack, "small")
    ours.publish(log.records)
    with ours.workers("features") as running:

        def passed(since_s: float) -> tuple[float, float]:
            """Seconds until anything is there, and records a second from then on."""
            first, at_s = 0, 0.0
            while (done := ours.done()) < log.total:
                running.check()
                if done and not first:
                    first, at_s = done, time.perf_counter()
                time.sleep(_LOOK_EVERY_S)
            return at_s - since_s, (log.total - first) / (time.perf_counter() - at_s)

        _, plain = passed(time.perf_counter())
        ours.redis.flushall()
        began_s = time.perf_counter()
        pause_s, rebuilt = passed(began_s)
        whole_s = time.perf_counter() - began_s
    found = ours.total_of(apps.video.item.impressions, "7d", log.last_ts_ms)
    bench.check("sum after the rebuild", found, len(log.records["impressions"]))
    bench.measure(f"{OURS}, Redis emptied", {
        "events": log.total, "first_state_after_s": pause_s, "whole_again_after_s": whole_s,
        "rebuilt_events_per_s": rebuilt, "plain_events_per_s": plain,
    })  # fmt: skip
    bench.at_least("a rebuild runs at full ingest speed (≥ 0.9)", rebuilt / plain, 0.9)
