"""Join: snapshots and labels in Kafka to final rows in the samples topic, one joiner.

Speed with a label window of ten minutes, and what waits in memory at ten minutes and at a day: as
much as fits into what a joiner keeps of snapshots, and far more, which then waits in Kafka.
Peers join one record per shown item with its click: no features, no refusals, no finality.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

from benchmarks import environments
from benchmarks.deployment import Deployment, stack_kind
from benchmarks.harness import OURS, Bench, Figures
from benchmarks.world import SHOWN, Log, World, make_topics, publish, snapshots
from tenuto import local
from tenuto.local import LocalStack
from tenuto.snapshot.sample_topic import SampleTopic

TITLE = "Join: snapshots and labels → final samples"
LABEL_WINDOW_MS = 600_000
WINDOWS = ("10m", "24h")
FITS, EXCEEDS = "all in memory", "more than is kept"
_SETTLED_S = 5.0


def run(bench: Bench) -> None:
    """Speed beside peers, then memory."""
    kind = stack_kind()
    loads = {FITS: bench.size(150_000, 60_000), EXCEEDS: bench.size(1_200_000, 300_000)}
    with local.start(kind) as stack:
        _speed(bench, stack, peers=kind == "kafka")
        for window in WINDOWS:
            for load, events in loads.items():
                _waiting(bench, stack, window, load, events)
    rate = bench.result.median(OURS, "impressions_per_s")
    bench.at_least("≥ 150k impressions/s per worker, Kafka included", rate, 150_000)
    for window in WINDOWS:
        for load, figure in ((FITS, "label_bytes"), (EXCEEDS, "resident_bytes")):
            waiting = bench.result.median(side(window, load), f"{figure}_per_impression")
            what = f"≤ 100 {figure.replace('_', ' ')} per waiting impression"
            bench.at_most(f"{what} ({window}, {load})", waiting, 100.0)


def _speed(bench: Bench, stack: LocalStack, *, peers: bool) -> None:
    log = World(bench.size(600_000, 60_000), per_s=1_000).log()
    ours = Deployment(stack, "join_10m", namespace="speed")
    ours.publish(log.records | {"snapshots": snapshots(log, ours.features, ours.partitions)})
    ours.end(log.last_ts_ms)
    impressions = len(log.ts_ms)
    sides: dict[str, Callable[[], Figures]] = {OURS: partial(_joined, bench, ours, log)}
    bench.delivers(OURS, "rows with 30 features, label and delay, in order, each once; refusals")
    if peers:
        size = bench.size(20_000, 4_000)
        sides["quix"] = _peer(bench, stack, "quix", log, size)
        bench.delivers("quix", "left interval join in RocksDB with changelogs; exactly once")
        if os.environ.get("FLINK_KAFKA_JAR"):
            sides["flink"] = _flink(bench, stack, log, (impressions // 5, impressions))
            bench.delivers("flink", "left interval join, two threads, rows counted; no checkpoint")
    bench.interleave(sides)


def _joined(bench: Bench, ours: Deployment, log: Log) -> Figures:
    """One joiner from an empty samples topic to its end marks."""
    rows, topic = len(log.ts_ms), ours.samples_topic
    figures = ours.join(rows)
    found = clicked = 0
    for batch in SampleTopic(topic, ours.stack.bootstrap).batches(["clicked"]):
        found += batch.num_rows
        clicked += sum(batch.column(0).to_pylist())
    bench.check(f"{OURS}: rows", found, rows)
    bench.check(f"{OURS}: rows with a click", clicked, len(log.requests))
    return figures


def side(window: str, load: str) -> str:
    """Of what waits, by label window, ``FITS`` or ``EXCEEDS``."""
    return f"{OURS}, {window}, {load}"


def _waiting(bench: Bench, stack: LocalStack, window: str, load: str, events: int) -> None:
    """Everything has arrived and nothing is final: what each impression takes."""
    # All of it within one window and its lateness, or a part would be final.
    log = World(events, per_s=max(2_000, events // 300)).log()
    ours = Deployment(stack, f"join_{window}", namespace=f"wait{window}{events}")
    with ours.workers("join") as running:
        time.sleep(_SETTLED_S)
        before = running.resident_bytes
        ours.publish(log.records | {"snapshots": snapshots(log, ours.features, ours.partitions)})
        waiting, settled_s = 0, time.perf_counter()
        while waiting == 0 or time.perf_counter() - settled_s < _SETTLED_S:
            found = int(running.metric("tenuto_snapshots_waiting"))
            if found != waiting:
                waiting, settled_s = found, time.perf_counter()
            time.sleep(0.2)
        running.check()
        grown = running.resident_bytes - before
        labels = running.metric("tenuto_label_memory_bytes")
        snapshot_bytes = running.metric("tenuto_snapshot_memory_bytes")
    samples = SampleTopic(ours.samples_topic, stack.bootstrap)
    rows = sum(batch.num_rows for batch in samples.batches(None))
    bench.check(f"{window}, {load}: rows that are final", rows, 0)
    if load == FITS:
        bench.check(f"{window}: snapshots that wait in memory", waiting, len(log.requests))
    impressions = len(log.ts_ms)
    bench.measure(side(window, load), {
        "impressions": impressions,
        "in_memory": waiting / len(log.requests),
        "label_bytes_per_impression": labels / impressions,
        "snapshot_bytes_per_impression": snapshot_bytes / impressions,
        "resident_bytes_per_impression": grown / impressions,
    })  # fmt: skip


# Peers: one record per shown item, one per click, both keyed by request and item.


def _peer_topics(stack: LocalStack, log: Log, impressions: int, partitions: int) -> list[str]:
    names = [f"{kind}-{impressions}-{partitions}" for kind in ("shown", "clicked")]
    requests = log.requests[: impressions // SHOWN]
    shown, clicked = [], []
    for number, asked in enumerate(requests):
        ts = asked.request.ts_ms
        for at, item in enumerate(asked.items):
            key = f"{asked.request.request_id}|{at}"
            shown.append((ts + at, key, b'{"k":"%s","item":"%s","ts":%d}'
                          % (key.encode(), item.encode(), ts + at)))  # fmt: skip
            if at == number % SHOWN:
                clicked.append((ts + 20, key, b'{"k":"%s","clicked_ts":%d}'
                                % (key.encode(), ts + 20)))  # fmt: skip
    make_topics(stack.bootstrap, partitions, *names)
    publish(dict(zip(names, (shown, clicked), strict=True)), stack.bootstrap, partitions)
    return names


def _peer(
    bench: Bench, stack: LocalStack, peer: str, log: Log, impressions: int
) -> Callable[[], Figures]:
    shown, clicked = _peer_topics(stack, log, impressions, 1)
    rounds = 0

    def measured() -> Figures:
        nonlocal rounds
        rounds += 1
        found = environments.run(peer, "join", {
            "bootstrap": stack.bootstrap, "shown": shown, "clicked": clicked,
            "impressions": impressions, "clicks": impressions // SHOWN,
            "window_ms": LABEL_WINDOW_MS, "group": f"join-{rounds}",
        })  # fmt: skip
        bench.check(f"{peer}: rows with a click", found["clicked"], impressions // SHOWN)
        return {"impressions_per_s": impressions / found["seconds"]}

    return measured


def _flink(
    bench: Bench, stack: LocalStack, log: Log, sizes: tuple[int, int]
) -> Callable[[], Figures]:
    """As for ingest: what a longer log has more, over the time that it takes more."""
    topics = [_peer_topics(stack, log, size, 4) for size in sizes]

    def took_s(topics: list[str], impressions: int) -> float:
        found = environments.run("flink", "join", {
            "bootstrap": stack.bootstrap, "shown": topics[0], "clicked": topics[1],
            "window_min": LABEL_WINDOW_MS // 60_000, "jar": os.environ["FLINK_KAFKA_JAR"],
        })  # fmt: skip
        told = [found["rows"], found["clicked"]]
        bench.check(
            "flink: rows, and those with a click", told, [impressions, impressions // SHOWN]
        )
        return float(found["seconds"])

    def measured() -> Figures:
        short_s, long_s = (took_s(*one) for one in zip(topics, sizes, strict=True))
        return {"impressions_per_s": (sizes[1] - sizes[0]) / (long_s - short_s)}

    return measured
