"""docs/capacity.md: what a deployment needs, worked out from ``benchmarks/results/*.json``.

Nothing is measured here but the bytes of records, which are the same each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks import apps, join
from benchmarks.harness import OURS, Result
from benchmarks.world import World, snapshots
from tenuto.settings import load
from tenuto.streams.join_worker import WAITING_BYTES

NEEDED = ("ingest", "read", "join", "samples", "train", "score")
REQUESTS_A_MINUTE = (10_000, 100_000, 1_000_000)
SHOWN, CANDIDATES = 50, 200
CLICKS_A_REQUEST, PLAY_REPORTS_A_REQUEST = 2.5, 2.5
# How busy a core may be: the rest is for peaks, for rebuilds and for what shares the machine.
BUSY = 0.6
RETENTION_DAYS = 8
# Users and queries that are new on a day, as shares of its requests; items; a query's candidates
# that are not the same from one day to the next are not counted.
USERS_A_REQUEST, QUERIES_A_REQUEST, ITEMS = 0.1, 0.1, 1_000_000
DAYS_OF_QUERIES, ITEMS_A_QUERY = 3, 60
_DAY_S = 86_400
_NODE_GIB = 64
_GIB, _TIB = 2**30, 2**40
_HEAD = """# Capacity

Written by `python -m benchmarks --render` from the results behind [benchmarks.md](benchmarks.md):
the costs are those of one machine, named there; take your own with `make bench`.

Assumed: {shown} items shown a request out of {candidates} that are read and scored; of a request's
impressions one of twenty is clicked, and half of the clicks play. The default preset with its
windows and label windows. Cores are {busy:.0%} busy, the rest is for peaks and rebuilds. Over a day
one request in ten is of a user, and one in ten of a query, that was not there before; three days'
queries differ within a week, and each brings 60 items; a million items. Bytes in Kafka are before
compression and of one copy: times the replication factor.
"""
_TAIL = """
## Where it stops being linear, and why

- **Redis runs scripts on one core.** Up to the first column's need one node does. Beyond it,
  `redis.cluster` with `redis.buckets` (docs/production.md): an entity lies in one bucket, each
  bucket has its own positions, and a bucket lies on one node. A batch's deltas are spread over
  the buckets, so with more buckets each script is smaller: choose twice as many buckets as nodes,
  not hundreds.
- **Pairs of query and item are nearly one per impression** where queries are long-tailed, and
  live for seven days: they, not items or users, decide the memory. Leave them out, or give them a
  day, before you buy nodes.
- **A trainer is one process**, and bits of weights that are a function of the samples need one
  order of all rows: more cores do not help where the share above passes 1. Sample
  (`capture.sample_rate`), which costs nothing but rows; labels and features stay right, as a
  request is captured whole or not at all.
- **A batch costs something however few events it has**: at low rates a worker spends most of its
  time on waking up. The loop's figures in benchmarks.md are of that kind, and far above the ones
  here.
- **Entities that are hot** are written once a batch, not once an event: real traffic, which
  repeats items more than the benchmark's, costs less than linear. One entity is never split: the
  traffic entity is written by every batch of every worker, in one bucket.
- **A rebuild reads the longest window**: its time is the events of seven days over the speed of
  the workers, of which 1 - busy is free while traffic goes on. Retention must cover it (8 days
  here).
- **A joiner's memory** is the labels of the horizon: it moves with partitions, so more joiners
  divide it. Snapshots wait in memory up to a bound for each partition and in Kafka beyond it.
"""


@dataclass(frozen=True)
class Costs:
    """Of one event, read, impression or row, as measured.

    Attributes:
        entity_bytes: Redis's, by entity.
    """

    feature_us: float
    redis_us: float
    read_us: float
    score_us: float
    join_us: float
    train_rows_per_s: float
    sink_rows_per_s: float
    entity_bytes: dict[str, float]
    label_bytes: float
    waiting_snapshot_bytes: float
    event_bytes: float
    snapshot_bytes: float
    sample_bytes: float
    parquet_bytes: float

    @classmethod
    def of(cls, results: dict[str, Result]) -> Costs:
        """What the results say, medians over their rounds."""
        ingest, read, joined, samples, train, score = (results[name] for name in NEEDED)
        entities = ("item", "user", "query", "query_item")
        event_bytes, snapshot_bytes = _record_bytes()
        waiting = join.side("24h", join.FITS)
        return cls(
            feature_us=ingest.figure("preset small", "worker_cpu_us_per_event"),
            redis_us=ingest.figure("preset small", "redis_cpu_us_per_event"),
            read_us=read.figure(f"small, idle, {CANDIDATES} × 1: {OURS}", "redis_us_per_read"),
            score_us=1e3 * score.figure(f"{OURS}, {CANDIDATES} × 1", "p50_ms"),
            join_us=joined.figure(OURS, "cpu_us_per_impression"),
            train_rows_per_s=train.figure(f"{OURS}, Kafka", "rows_per_s"),
            sink_rows_per_s=samples.figure(f"{OURS} → Parquet", "rows_per_s"),
            entity_bytes={
                name: ingest.figure("preset small", f"{name}_bytes") for name in entities
            },
            label_bytes=joined.figure(waiting, "label_bytes_per_impression"),
            waiting_snapshot_bytes=joined.figure(waiting, "snapshot_bytes_per_impression"),
            event_bytes=event_bytes,
            snapshot_bytes=snapshot_bytes,
            sample_bytes=samples.figure(f"{OURS}, in Kafka", "bytes_per_row"),
            parquet_bytes=samples.figure(f"{OURS} → Parquet", "bytes_per_row"),
        )


def _record_bytes() -> tuple[float, float]:
    """Of an event, and of a snapshot for each item shown: keys and values, not compressed."""
    log = World(10_000).log()
    rows = [row for rows in log.records.values() for row in rows]
    features = apps.small.feature_set(load(env={}).settings.time.rules())
    saw = snapshots(log, features, 4)
    return (
        sum(len(key) + len(value) for _, key, value in rows) / len(rows),
        sum(len(key) + len(value) for _, key, value in saw) / len(log.ts_ms),
    )


@dataclass(frozen=True)
class Need:
    """Of so many requests a minute; by what it is told of in the table."""

    per_minute: int
    costs: Costs
    horizon_s: float

    @property
    def requests_per_s(self) -> float:
        return self.per_minute / 60

    @property
    def shown_per_s(self) -> float:
        return self.requests_per_s * SHOWN

    @property
    def events_per_s(self) -> float:
        return self.requests_per_s * (SHOWN + CLICKS_A_REQUEST + PLAY_REPORTS_A_REQUEST)

    def cores(self, us: float, per_s: float) -> float:
        """Cores that so many microseconds each take, no busier than they may be."""
        return us * per_s / 1e6 / BUSY

    @property
    def feature_cores(self) -> float:
        return self.cores(self.costs.feature_us, self.events_per_s)

    @property
    def join_cores(self) -> float:
        return self.cores(self.costs.join_us, self.shown_per_s)

    @property
    def redis_cores(self) -> float:
        writes = self.cores(self.costs.redis_us, self.events_per_s)
        return writes + self.cores(self.costs.read_us, self.requests_per_s)

    @property
    def join_bytes(self) -> float:
        """Labels of the horizon; of the snapshots so many as are kept, the others wait in Kafka."""
        waiting = self.shown_per_s * self.horizon_s
        kept = min(waiting * self.costs.waiting_snapshot_bytes, self.partitions * WAITING_BYTES)
        return waiting * self.costs.label_bytes + kept

    @property
    def sink_cores(self) -> float:
        return self.cores(1e6 / self.costs.sink_rows_per_s, self.shown_per_s)

    @property
    def trainer_share(self) -> float:
        return self.shown_per_s / self.costs.train_rows_per_s

    @property
    def score_cores(self) -> float:
        return self.cores(self.costs.score_us, self.requests_per_s)

    @property
    def entities(self) -> dict[str, float]:
        a_day = self.requests_per_s * _DAY_S
        queries = a_day * QUERIES_A_REQUEST
        return {
            "item": ITEMS, "user": a_day * USERS_A_REQUEST, "query": queries,
            "query_item": queries * DAYS_OF_QUERIES * ITEMS_A_QUERY,
        }  # fmt: skip

    def redis_bytes(self, *, pairs: bool) -> float:
        return sum(
            count * self.costs.entity_bytes[name]
            for name, count in self.entities.items()
            if pairs or name != "query_item"
        )

    def kafka_bytes_per_s(self) -> dict[str, float]:
        return {
            "events": self.events_per_s * self.costs.event_bytes,
            "snapshots": self.shown_per_s * self.costs.snapshot_bytes,
            "samples": self.shown_per_s * self.costs.sample_bytes,
        }

    @property
    def partitions(self) -> int:
        """Three for each worker of the kind of which there are most, so that one more helps."""
        workers = math.ceil(max(self.feature_cores, self.join_cores, 1.0))
        return max(24, 3 * workers)


def page(results: dict[str, Result]) -> str:
    """The page."""
    costs = Costs.of(results)
    late_ms = load(env={}).settings.time.rules().lateness_ms
    horizon_s = apps.small.samples[0].horizon_ms(late_ms) / 1e3
    needs = [Need(per_minute, costs, horizon_s) for per_minute in REQUESTS_A_MINUTE]
    lines = [
        _HEAD.format(shown=SHOWN, candidates=CANDIDATES, busy=BUSY),
        "## What one of each costs\n",
        "| what | measured | by |",
        "|---|--:|---|",
        *_table([
            ("an event in a feature worker", f"{costs.feature_us:.1f} µs of a core", "ingest"),
            ("an event in Redis", f"{costs.redis_us:.1f} µs of a core", "ingest"),
            (f"a read of {CANDIDATES} candidates in Redis", f"{costs.read_us:.0f} µs of a core",
             "read"),
            (f"a score of {CANDIDATES} candidates", f"{costs.score_us:.0f} µs of a core", "score"),
            ("an impression in a joiner", f"{costs.join_us:.1f} µs of a core", "join"),
            ("labels of an impression that waits", f"{costs.label_bytes:.0f} bytes", "join"),
            (f"its snapshot, up to {WAITING_BYTES >> 20} MB a partition",
             f"{costs.waiting_snapshot_bytes:.0f} bytes", "join"),
            ("a row in a trainer", f"{1e6 / costs.train_rows_per_s:.0f} µs of one core", "train"),
            ("a row in a sink, with its start", f"{1e6 / costs.sink_rows_per_s:.1f} µs", "samples"),
            *((f"an entity in Redis: {name}", f"{size:,.0f} bytes", "ingest")
              for name, size in costs.entity_bytes.items()),
            ("an event in Kafka", f"{costs.event_bytes:.0f} bytes", "this page"),
            ("a shown item in a snapshot in Kafka", f"{costs.snapshot_bytes:.0f} bytes",
             "this page"),
            ("a row of the samples topic", f"{costs.sample_bytes:.0f} bytes", "samples"),
            ("a row in Parquet", f"{costs.parquet_bytes:.0f} bytes", "samples"),
        ]),
        "",
        "## What a deployment needs\n",
        "| requests a minute | " + " | ".join(f"{n.per_minute:,}" for n in needs) + " |",
        "|---|" + "--:|" * len(needs),
    ]  # fmt: skip
    told: tuple[tuple[str, Callable[[Need], str]], ...] = (
        ("events a second", lambda n: f"{n.events_per_s:,.0f}"),
        ("partitions of each topic", lambda n: f"{n.partitions}"),
        ("feature workers (cores)", lambda n: _cores(n.feature_cores)),
        ("joiners (cores)", lambda n: _cores(n.join_cores)),
        ("memory of all joiners", lambda n: _bytes(n.join_bytes)),
        ("sinks (cores)", lambda n: _cores(n.sink_cores)),
        ("trainer: share of one core's speed", lambda n: f"{n.trainer_share:.2f}"),
        ("scoring in the serving tier (cores)", lambda n: _cores(n.score_cores)),
        ("Redis nodes by their processor", lambda n: f"{math.ceil(n.redis_cores)}"),
        ("Redis memory without (query, item)", lambda n: _bytes(n.redis_bytes(pairs=False))),
        ("Redis memory with (query, item)", lambda n: _bytes(n.redis_bytes(pairs=True))),
        (f"Redis nodes of {_NODE_GIB} GiB for the latter",
         lambda n: f"{math.ceil(n.redis_bytes(pairs=True) / _GIB / _NODE_GIB)}"),
        ("Kafka, written", lambda n: f"{sum(n.kafka_bytes_per_s().values()) / 1e6:,.0f} MB/s"),
        (f"Kafka, events of {RETENTION_DAYS} days", lambda n: _days(n, "events", RETENTION_DAYS)),
        ("Kafka, snapshots of one day", lambda n: _days(n, "snapshots", 1)),
        (f"Kafka, samples of {RETENTION_DAYS} days", lambda n: _days(n, "samples", RETENTION_DAYS)),
        ("Parquet a day", lambda n: _bytes(n.shown_per_s * _DAY_S * costs.parquet_bytes)),
    )  # fmt: skip
    for text, cell in told:
        lines.append(f"| {text} | " + " | ".join(cell(need) for need in needs) + " |")
    return "\n".join(lines) + "\n" + _TAIL


def _table(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    return [f"| {what} | {measured} | {by} |" for what, measured, by in rows]


def _cores(cores: float) -> str:
    return f"{cores:.1f}" if cores < 10 else f"{cores:.0f}"


def _days(need: Need, topic: str, days: int) -> str:
    return _bytes(need.kafka_bytes_per_s()[topic] * _DAY_S * days)


def _bytes(number: float) -> str:
    if number >= _TIB:
        return f"{number / _TIB:,.1f} TiB"
    return f"{number / _GIB:,.1f} GiB"
