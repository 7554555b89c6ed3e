"""What live worker processes serve, against what docs/metrics.md says they do."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

import pytest
from documented_metrics import documented, scrape, served, total
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from tenuto import local
from tenuto.drive.driver import Driver
from tenuto.drive.driver import Topics as DrivenTopics
from tenuto.drive.run import run_settings
from tenuto.drive.source import EventRecord, Request
from tenuto.drive.workers import Workers
from tenuto.features.client import FeatureClient
from tenuto.features.reader import Reader
from tenuto.features.store import Store
from tenuto.local.processes import free_port
from tenuto.presets import video
from tenuto.serving_metrics import ServingMetrics
from tenuto.settings import environment, load
from tenuto.streams.capture import CaptureMetrics
from tenuto.streams.feature_metrics import FeatureMetrics
from tenuto.streams.join_metrics import JoinMetrics
from tenuto.streams.outbox import Outbox
from tenuto.streams.rebuild_metrics import retention_metrics
from tenuto.streams.sink_metrics import SinkMetrics
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import Sizes, Topics, plan

T = 1_700_000_000_000
PARTITIONS = 2
REQUESTS = 6
ROLES = {
    "Feature worker": ["worker", "features"],
    "Joiner": ["worker", "join"],
    "Parquet sink": ["sink", "parquet"],
}


class Shown:
    """A few requests whose items are all seen, and every other one clicked and played."""

    start_ms, end_ms = T, T + REQUESTS * 1_000

    def requests(self, start_ms: int, end_ms: int) -> list[Request]:
        times = [T + number * 1_000 for number in range(REQUESTS)]
        return [
            Request(f"r{at}", "u1", "q", at, ["i0", "i1"], None, {})
            for at in times
            if start_ms <= at < end_ms
        ]

    def next_request_ms(self, from_ms: int) -> int | None:
        later = [r.ts_ms for r in self.requests(from_ms, self.end_ms)]
        return min(later, default=None)

    def outcomes(self, request: Request, shown: Any) -> list[EventRecord]:
        records = []
        for position, index in enumerate(shown):
            base = {
                "request_id": request.request_id,
                "user_id": request.user_id,
                "query": request.query,
                "item_id": request.candidates[index],
                "position": position,
            }
            ts = request.ts_ms + 100
            records.append(EventRecord("impressions", ts, {**base, "ts": ts}))
            if position == 0:
                ts = request.ts_ms + 2_500
                records.append(EventRecord("clicks", ts, {**base, "ts": ts}))
                bad = {**base, "ts": ts, "position": -3}
                records.append(EventRecord("clicks", ts, bad))
        return records


@pytest.fixture(scope="module")
def scraped(
    embedded: local.LocalStack, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Metric]]:
    """Families by name of each live process, after it has had something to do."""
    folder = tmp_path_factory.mktemp("metrics")
    settings = run_settings(
        load(
            env={
                "TENUTO_KAFKA__BOOTSTRAP": embedded.bootstrap,
                "TENUTO_REDIS__URL": embedded.redis_url,
                "TENUTO_SINK__DIR": str(folder / "samples"),
            }
        ).settings,
        namespace=f"m{uuid.uuid4().hex[:8]}",
        partitions=PARTITIONS,
    )
    names = TopicNames(settings.namespace)
    topics = plan(
        names,
        video.events,
        video.samples,
        partitions=PARTITIONS,
        sizes=Sizes(settings.limits.event_bytes, settings.limits.snapshot_bytes),
        clock="driver",
    )
    with Topics(settings.kafka) as admin:
        admin.create(topics)
    ports = {role: free_port() for role in ROLES}
    with Workers(environment(settings), folder / "logs") as workers:
        for role, command in ROLES.items():
            port = {"TENUTO_WORKERS__METRICS_PORT": str(ports[role])}
            workers.start(role.replace(" ", "-"), command, port)
        outbox = Outbox(settings.kafka.kafka_python(), linger_ms=5)
        try:
            outbox.connect([topic.name for topic in topics])
            drive(settings, names, outbox, workers)
        finally:
            outbox.close()
        return {role: settled(ports[role], workers) for role in ROLES}


def drive(settings: Any, names: TopicNames, outbox: Outbox, workers: Workers) -> None:
    features = video.app.feature_set()
    reader = Reader(features, PARTITIONS, settings.namespace)
    store = Store(settings.redis.client(), features.layout, PARTITIONS, settings.namespace)
    Driver(
        Shown(),
        events=video.events,
        topics=DrivenTopics(names.events(video.events), names.snapshots, PARTITIONS),
        outbox=outbox,
        client=FeatureClient(settings.redis.url, reader),
        store=store,
        freshness_ms=1_000,
        horizon_ms=video.samples[0].horizon_ms(300_000),
        check=workers.check,
    ).run()


def settled(port: int, workers: Workers) -> dict[str, Metric]:
    """A process's families once what was driven has reached it."""
    moved = ("tenuto_events_total", "tenuto_samples_total", "tenuto_sink_rows_total")
    deadline = time.monotonic() + 60
    while True:
        workers.check()
        families = scrape(port)
        samples = [s for f in families.values() for s in f.samples if s.name in moved]
        if sum(s.value for s in samples) >= 2 * REQUESTS:
            return families
        assert time.monotonic() < deadline, samples
        time.sleep(0.2)


@pytest.mark.stack
@pytest.mark.parametrize("role", ROLES)
def test_a_live_process_serves_exactly_what_is_documented(
    scraped: dict[str, dict[str, Metric]], role: str
) -> None:
    assert served(scraped[role].values()) == documented(role)


@pytest.mark.stack
def test_the_main_metrics_have_moved(scraped: dict[str, dict[str, Metric]]) -> None:
    def value(role: str, name: str, **labels: str) -> float:
        return total(scraped[role], name, **labels)

    features, joiner, sink = ROLES
    assert value(features, "tenuto_events_total", event="impressions") == 2 * REQUESTS
    assert value(features, "tenuto_dead_letters_total", reason="field") == REQUESTS
    assert value(features, "tenuto_event_freshness_seconds_count", event="clicks") > 0
    assert value(features, "tenuto_consumer_lag_records") == 0
    assert value(features, "tenuto_arrival_timestamp_seconds") > T / 1000
    assert value(joiner, "tenuto_snapshots_total") == REQUESTS
    assert value(joiner, "tenuto_samples_total", outcome="impressed") == 2 * REQUESTS
    assert value(joiner, "tenuto_joined_labels_total", label="clicked") == REQUESTS
    assert value(joiner, "tenuto_label_delay_seconds_count", label="clicked") == REQUESTS
    assert value(joiner, "tenuto_snapshots_waiting") == 0
    assert value(sink, "tenuto_sink_rows_total") == 2 * REQUESTS
    assert value(sink, "tenuto_sink_files_total") == PARTITIONS


@pytest.mark.stack
@pytest.mark.parametrize("role", ROLES)
def test_labels_carry_no_ids(scraped: dict[str, dict[str, Metric]], role: str) -> None:
    allowed = {"event", "reason", "topic", "partition", "label", "outcome", "le", "state", "view"}
    for family in scraped[role].values():
        if family.name.startswith("tenuto_"):
            assert {name for s in family.samples for name in s.labels} <= allowed


@pytest.mark.parametrize(
    ("section", "metrics"),
    [
        ("Feature worker", [FeatureMetrics, lambda r: retention_metrics(r, 1.0, {})]),
        ("Joiner", [JoinMetrics]),
        ("Parquet sink", [SinkMetrics]),
        ("Serving tier", [ServingMetrics, CaptureMetrics]),
    ],
)
def test_what_a_class_declares_is_what_is_documented(section: str, metrics: list[Any]) -> None:
    registry = CollectorRegistry()
    for declared in metrics:
        declared(registry)
    assert served(registry.collect()) == documented(section)


@pytest.mark.parametrize("section", [*ROLES, "Trainer", "Serving tier"])
def test_names_have_base_units_and_counters_end_in_total(section: str) -> None:
    for name, kind in documented(section).items():
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|milliseconds|minutes|hours|kb|mb|percent)(_|$)", name), name
        if kind == "histogram":
            assert name.endswith(("_seconds", "_bytes")), name
