"""Growth: what an event costs while the log grows, while entities grow, and recovery of Redis.

One worker counts items and users over five minutes. First the log goes on and on over the same ids;
then events are of more and more ids, each as often as any other, so that ever fewer of a batch's
events fall on one entity. A part's cost is the processor time of the worker and
of Redis. A part lasts longer than the window, so that the last sums are of the last part alone.
Then the default preset loses its Redis and reads its log again.
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
from tenuto.presets import video

TITLE = "Growth: cost per event, memory, and recovery of an emptied Redis"
_IDS = 50_000
# Events beside ids, twice as many entities: of most of them there are events in the window.
_GROWING = ((1.0, 5_000), (1.0, 50_000), (1.0, 500_000), (6.0, 2_500_000))
_PART_S = 500
_LOOK_EVERY_S = 0.05
_WRITES = "tenuto_entity_writes_total"


@dataclass(frozen=True)
class _Part:
    """A part of the log: its events, and how many items and as many users they are of."""

    events: int
    ids: int
    name: str


def run(bench: Bench) -> None:
    """Both kinds of growth, then recovery."""
    kind = stack_kind()
    size, number = bench.size(1_000_000, 100_000), bench.size(50, 5)
    told = {1, number // 10, number // 5, number // 2, number}
    more_events = [
        _Part(size, _IDS, f"{at * size / 1e6:g}M events" if at in told else "")
        for at in range(1, number + 1)
    ]
    more_ids = [
        _Part(round(size * of_size), ids, f"{2 * ids:,} ids")
        for of_size, ids in _GROWING[: bench.size(len(_GROWING), 3)]
    ]
    with local.start(kind) as stack:
        costs = _grow(bench, stack, "log", more_events)
        # The first of them finds an empty Redis, the next ones what is there.
        bench.at_most("cost of an event, last part over second: ≤ 1.2", costs[-1] / costs[1], 1.2)
    with local.start(kind) as stack:
        _grow(bench, stack, "ids", more_ids)
    with local.start(kind) as stack:
        _recover(bench, stack)


def _grow(bench: Bench, stack: LocalStack, name: str, parts: list[_Part]) -> list[float]:
    """Microseconds of processor time of an event, by part."""
    ours = Deployment(stack, "counts", namespace=name)
    costs: list[float] = []
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
            writes = running.metric(_WRITES)
            ours.publish(log.records)
            events += log.total
            while ours.done() < events:
                running.check()
                time.sleep(_LOOK_EVERY_S)
            spent_s = running.cpu_s - before_s[0], cpu_s(stack.redis_pid) - before_s[1]
            costs.append(sum(spent_s) / log.total * 1e6)
            if part.name:
                bench.measure(part.name, {
                    "worker_cpu_us_per_event": spent_s[0] / log.total * 1e6,
                    "redis_cpu_us_per_event": spent_s[1] / log.total * 1e6,
                    "entity_writes_per_event": (running.metric(_WRITES) - writes) / log.total,
                    "entities": sum(map(len, ours.keys().values())),
                    "worker_megabytes": running.resident_bytes / 1e6,
                    "redis_megabytes": resident_bytes(stack.redis_pid) / 1e6,
                })  # fmt: skip
        found = ours.total_of(apps.item.impressions, "5m", log.last_ts_ms)
        bench.check(f"{name}: sum over the last window", found, int(inside(log, "5m").sum()))
    return costs


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
    found = ours.total_of(video.item.impressions, "7d", log.last_ts_ms)
    bench.check("sum after the rebuild", found, len(log.records["impressions"]))
    bench.measure(f"{OURS}, Redis emptied", {
        "events": log.total, "first_state_after_s": pause_s, "whole_again_after_s": whole_s,
        "rebuilt_events_per_s": rebuilt, "plain_events_per_s": plain,
    })  # fmt: skip
    bench.at_least("a rebuild runs at full ingest speed (≥ 0.9)", rebuilt / plain, 0.9)
