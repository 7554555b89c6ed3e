"""Ingest: Kafka to windowed counts that can be read, against plain stream processors.

Two parts. *Counts*: one count over five minutes of items and of users, beside peers that keep one
count per item over the same events (their topic is keyed by item, so that none has to regroup).
*Preset*: the whole default preset and the full one over impressions, clicks and plays.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
from kafka.errors import TopicAlreadyExistsError

from benchmarks import apps, environments, hops
from benchmarks.deployment import Deployment, inside, stack_kind
from benchmarks.harness import OURS, Bench, Figures
from benchmarks.world import Log, World, make_topics, publish
from tenuto import local
from tenuto.local import LocalStack
from tenuto.presets import video

TITLE = "Ingest: Kafka → windowed counts"
FLINK_PARTITIONS = 4
_WHOLE_S = 500
PEERS = {
    "faust": "hopping table (5 min / 10 s) in memory and a changelog; at least once",
    "quix": "hopping window in RocksDB and a changelog; exactly once; tells closed windows only",
    "bytewax": "sliding window in the process's memory, no recovery store; tells closed windows",
    "flink": "HOP, two threads, into a blackhole: no checkpoint, nothing can be read",
    "flink-redis": "HOP, two threads, each closed window written to the same Redis; no checkpoint",
}


def run(bench: Bench) -> None:
    """Both parts."""
    kind = stack_kind()
    if kind == "embedded":
        bench.note("no KAFKA_HOME: on the embedded broker, and without peers")
    with local.start(kind) as stack:
        _counts(bench, stack, peers=kind == "kafka")
        _presets(bench, stack)
        _audited(bench, stack)
    _goals(bench)


def _counts(bench: Bench, stack: LocalStack, *, peers: bool) -> None:
    size = bench.size(1_500_000, 300_000)
    log = World(size, actions=False).log()
    # Ours enters a log at the first event that a window can still need: it must need all of them.
    dense = World(size, actions=False, per_s=size // _WHOLE_S).log()
    ours = Deployment(stack, "counts")
    ours.publish(dense.records)
    bench.note(
        f"{OURS} reads the same events {size // _WHOLE_S / World(0).per_s:g}× as dense in time"
    )

    def caught_up(workers: int) -> Figures:
        figures = ours.catch_up(dense.total, workers)
        recent = int(inside(dense, "5m").sum())
        for counter in (apps.item.impressions, apps.user.impressions):
            bench.check(
                f"sum of {counter.entity.name} impressions over 5m",
                ours.total_of(counter, "5m", dense.last_ts_ms), recent,
            )  # fmt: skip
        return {**figures, **ours.sizes()}

    sides: dict[str, Callable[[], Figures]] = {
        OURS: partial(caught_up, 1),
        f"{OURS} ×2": partial(caught_up, 2),
    }
    bench.delivers(OURS, "items and users, windows readable in Redis at any moment; exactly once")
    if peers:
        for peer, events in {
            "faust": bench.size(6_000, 4_000),
            "quix": bench.size(20_000, 8_000),
            "bytewax": bench.size(50_000, 40_000),
        }.items():
            sides[peer] = _peer(bench, stack, peer, log, events)
        if os.environ.get("FLINK_KAFKA_JAR"):
            whole = len(log.ts_ms)
            for side, sink, sizes in (
                ("flink", "blackhole", (whole // 10, whole // 2)),
                ("flink-redis", "redis", (whole // 30, whole // 10)),
            ):
                sides[side] = _flink(bench, stack, side, sink, sizes, log)
        else:
            bench.note("Flink was left out: FLINK_KAFKA_JAR names no connector")
    bench.interleave(sides)


def _peer_topic(stack: LocalStack, log: Log, events: int, partitions: int = 1) -> str:
    """The first so many impressions in a topic of their own, keyed by item."""
    topic = f"by-item-{events}-{partitions}"
    rows = [
        (ts, str(orjson.loads(value)["item_id"]), value)
        for ts, _, value in log.records["impressions"][:events]
    ]
    try:
        make_topics(stack.bootstrap, partitions, topic)
    except TopicAlreadyExistsError:
        return topic
    publish({topic: rows}, stack.bootstrap, partitions)
    return topic


def _peer(
    bench: Bench, stack: LocalStack, peer: str, log: Log, events: int
) -> Callable[[], Figures]:
    topic = _peer_topic(stack, log, events)
    keys = hops.watched(log.item[:events])
    expected = hops.counted(log.item[:events], log.ts_ms[:events], keys)
    bench.delivers(peer, PEERS[peer])
    rounds = 0

    def measured() -> Figures:
        nonlocal rounds
        rounds += 1
        found = environments.run(peer, "ingest", {
            "bootstrap": stack.bootstrap, "topic": topic, "events": events, "keys": keys,
            "size_ms": hops.SIZE_MS, "hop_ms": hops.HOP_MS, "group": f"{peer}-{rounds}",
        })  # fmt: skip
        bench.check(f"{peer}: events", found["events"], events)
        _check_windows(bench, peer, found, expected, int(log.ts_ms[events - 1]))
        return {"events_per_s": events / found["seconds"]}

    return measured


def _check_windows(
    bench: Bench, peer: str, found: dict[str, Any], expected: dict[str, Any], last_ms: int
) -> None:
    # Of the last hop some windows are still open.
    told, right = hops.agree(found, expected, last_ms - hops.HOP_MS)
    bench.check(f"{peer}: counts of every window that ended", told, right)


def _flink(
    bench: Bench, stack: LocalStack, side: str, sink: str, sizes: tuple[int, int], log: Log
) -> Callable[[], Figures]:
    """Flink starts for seconds: its speed is that of the events that a longer log has more."""
    topics = [_peer_topic(stack, log, size, FLINK_PARTITIONS) for size in sizes]
    bench.delivers(side, PEERS[side])

    def took_s(topic: str, size: int) -> float:
        keys = hops.watched(log.item[:size])
        found = environments.run("flink", "ingest", {
            "bootstrap": stack.bootstrap, "topic": topic, "sink": sink, "keys": keys,
            "size_s": hops.SIZE_MS // 1_000, "hop_s": hops.HOP_MS // 1_000,
            "redis": stack.redis_url, "jar": os.environ["FLINK_KAFKA_JAR"],
        })  # fmt: skip
        if sink == "redis":
            counts = hops.counted(log.item[:size], log.ts_ms[:size], keys)["counts"]
            newest = {key: [max(own), own[max(own)]] for key, own in counts.items()}
            bench.check(f"{side}: newest count of some items", found["newest"], newest)
        return float(found["seconds"])

    def measured() -> Figures:
        short_s, long_s = (took_s(*one) for one in zip(topics, sizes, strict=True))
        return {
            "events_per_s": (sizes[1] - sizes[0]) / (long_s - short_s), "whole_run_s": long_s,
        }  # fmt: skip

    return measured


def _presets(bench: Bench, stack: LocalStack) -> None:
    log = World(bench.size(1_000_000, 150_000)).log()
    seen = {name: len(rows) for name, rows in log.records.items()}
    sides: dict[str, Callable[[], Figures]] = {}
    for app in ("small", "full"):
        deployment = Deployment(stack, app)
        deployment.publish(log.records)

        def caught_up(deployment: Deployment, workers: int) -> Figures:
            figures = deployment.catch_up(log.total, workers)
            for name in ("impressions", "clicks"):
                counter = getattr(video.item, name)
                found = deployment.total_of(counter, "7d", log.last_ts_ms)
                bench.check(f"sum of item {name} over 7d", found, seen[name])
            return {**figures, **deployment.sizes()}

        sides[f"preset {app}"] = partial(caught_up, deployment, 1)
        sides[f"preset {app} ×2"] = partial(caught_up, deployment, 2)
    bench.interleave(sides)


def _audited(bench: Bench, stack: LocalStack) -> None:
    """Two workers' state, event by event computed anew: that takes a quarter of a millisecond."""
    log = World(bench.size(150_000, 50_000)).log()
    deployment = Deployment(stack, "small", namespace="audited")
    deployment.publish(log.records)
    deployment.catch_up(log.total, 2)
    bench.check("audit of the default preset's state: findings", deployment.audit(), "")


def _goals(bench: Bench) -> None:
    result, figure = bench.result, "events_per_s"
    bench.at_least("item + user views: ≥ 250k events/s", result.median(OURS, figure), 250_000)
    small = result.median("preset small", figure)
    bench.at_least("default preset: ≥ 80k events/s", small, 80_000)
    for peer, bound, text in (
        ("faust", 100.0, "≥ 100× a plain Faust table"),
        ("quix", 5.0, "≥ 5× Quix Streams"),
        ("bytewax", 3.0, "≥ 3× Bytewax"),
        ("flink-redis", 1.0, "≥ Flink into the same Redis"),
        ("flink", 1 / 3, "≥ ⅓ of Flink that writes nowhere"),
    ):
        bench.at_least(text, bench.ratio(figure, peer), bound)
    bench.at_least("two workers ≥ 1.8× one", bench.ratio(figure, OURS, f"{OURS} ×2"), 1.8)
