"""A lock-step run of real components: servers, topics, workers, and the driver that feeds them.

Everything of a run lives in a namespace of its own, with topics whose time the driver makes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
import redis

from tenuto import local
from tenuto.audit import audit_log, read_state, record_log
from tenuto.drive.driver import (
    Counts,
    Driver,
    OnOutcomes,
    Slate,
    Topics,
    as_logged,
    nobody,
)
from tenuto.drive.interrupts import Interrupts
from tenuto.drive.scrape import Scrape
from tenuto.drive.source import Request, Source
from tenuto.drive.workers import Workers
from tenuto.features.buckets import Buckets
from tenuto.features.client import FeatureClient
from tenuto.features.durations import duration_ms
from tenuto.features.matrix import Matrix
from tenuto.features.reader import Reader
from tenuto.local.processes import free_port
from tenuto.platform import Platform
from tenuto.settings import Settings, environment
from tenuto.snapshot.audit.findings import Findings
from tenuto.snapshot.audit.recording import write_recording
from tenuto.streams.dead_letters import count_by_reason, read
from tenuto.streams.outbox import Outbox, SendError
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import Topics as TopicAdmin
from tenuto.topic_plan import topic_plan

TRAINER = "trainer"
"""The trainer's name among the workers."""

Policy = Callable[[Request, Matrix], Slate]

if TYPE_CHECKING:
    # It loads torch.
    from tenuto.drive.live_ranker import LiveRanker


@dataclass(frozen=True)
class Training:
    """That a run learns along.

    Attributes:
        mode: ``"live"`` learns at once, ``"as_of"`` only what was final at each row's request.
        store: folder of its checkpoints.
    """

    mode: str
    store: Path


@dataclass(frozen=True)
class RunOptions:
    """What a run is given.

    Attributes:
        settings: of the servers, once they run; ``namespace`` is the run's own.
        platform: the application.
        out_dir: where the sink writes samples.
        work_dir: logs.
        freshness: distance of the boundaries, such as ``"10s"``.
        start_stack: kind of local stack to start, None to use the servers of the settings.
        training: of a ranker, from the sample stream that has the tasks' labels.
        audit: whether what came of it is audited before the servers stop.
        record: folder that the log is kept in.
    """

    settings: Settings
    platform: Platform
    out_dir: Path
    work_dir: Path
    freshness: str = "10s"
    start_stack: local.Kind | None = "embedded"
    training: Training | None = None
    audit: bool = False
    record: Path | None = None

    def samples_dir(self, stream: str) -> Path:
        """Where a sample stream's files go: ``out_dir`` itself for the default one."""
        return self.out_dir if stream == "default" else self.out_dir / stream


class Run:
    """Servers, topics and workers of a run; a context manager that stops them all.

    Attributes:
        interrupts: while it drives, ``with run.interrupts`` takes them between steps.
    """

    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self.platform = options.platform
        self.settings = options.settings
        self.scrapes: dict[str, Scrape] = {}
        self.interrupts = Interrupts()
        self._exit = ExitStack()

    def __enter__(self) -> Run:
        try:
            self._start()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # Nobody waits for what was sent, and the broker may be what has failed.
            with suppress(SendError, TimeoutError):
                self.outbox.close(0.0)
        self._exit.close()

    def _start(self) -> None:
        options = self.options
        if options.start_stack is not None:
            self.settings = self._started(options.start_stack)
        settings = self.settings
        self.names = TopicNames(settings.namespace)
        self.topic_plan = topic_plan(settings, self.platform)
        with TopicAdmin(settings.kafka) as admin:
            admin.create(self.topic_plan, replication_factor=settings.kafka.replication_factor)
        env = environment(settings)
        self.workers = self._exit.enter_context(Workers(env, options.work_dir / "logs"))
        self._start_worker("features", "features")
        for stream in self.platform.samples:
            name = stream.name
            self._start_worker(f"join-{name}", "join", "--stream", name)
            out = str(options.samples_dir(name))
            sink = ["sink", "parquet", "--stream", name, "--dir", out, "--until-end"]
            self.workers.start(f"sink-{name}", sink)
        if options.training is not None:
            self._start_trainer(options.training)
        features = self.platform.feature_set(settings.time.rules())
        partitions = settings.kafka.partitions
        self.redis: redis.Redis = settings.redis.client()
        self.store = Buckets.connect(
            settings.redis, features.layout, partitions, settings.namespace
        )
        reader = Reader(features, partitions, settings.namespace, settings.redis.buckets)
        self.client = FeatureClient(
            settings.redis.url,
            reader,
            cluster=settings.redis.cluster,
            **settings.redis.options(),
        )
        self.outbox = Outbox(
            settings.kafka.kafka_python(),
            # Everything is flushed at a boundary: till then, records share requests.
            linger_ms=1_000,
            max_record_bytes=settings.limits.snapshot_bytes,
            max_block_ms=30_000,
        )
        self._exit.callback(self.outbox.close)
        self.outbox.connect([topic.name for topic in self.topic_plan])

    def _start_worker(self, name: str, *arguments: str) -> None:
        port = free_port()
        self.workers.start(name, ["worker", *arguments, "--metrics-port", str(port)])
        self.scrapes[name] = Scrape(f"http://127.0.0.1:{port}/metrics")

    def _start_trainer(self, training: Training) -> None:
        self._metrics_file = self.options.work_dir / "metrics.json"
        port = free_port()
        self.workers.start(
            TRAINER,
            ["train", "--until-end", "--mode", training.mode, "--store", str(training.store),
             "--metrics-file", str(self._metrics_file), "--metrics-port", str(port)],
        )  # fmt: skip
        self.scrapes[TRAINER] = Scrape(f"http://127.0.0.1:{port}/metrics")

    def _started(self, kind: local.Kind) -> Settings:
        stack_settings = self.settings.stack
        home = Path(stack_settings.kafka_home) if stack_settings.kafka_home else None
        stack = self._exit.enter_context(local.start(kind, kafka_home=home))
        self.stack = stack
        kafka = msgspec.structs.replace(self.settings.kafka, bootstrap=stack.bootstrap)
        # A stack's own Redis is no cluster; the buckets may be as many.
        connection = msgspec.structs.replace(
            self.settings.redis, url=stack.redis_url, cluster=False
        )
        return msgspec.structs.replace(self.settings, kafka=kafka, redis=connection)

    @property
    def trained_stream(self) -> str:
        """The sample stream that the ranker learns from."""
        return self.platform.trained_stream().name

    def live_ranker(self) -> LiveRanker | None:
        """What orders slates by the run's own checkpoints; None where nothing is learnt."""
        training = self.options.training
        if training is None:
            return None
        from tenuto.drive.live_ranker import LiveRanker

        settings = self.settings
        return LiveRanker(
            training.store,
            settings.trainer.model or self.platform.name,
            duration_ms(settings.trainer.checkpoint_every),
            self.platform.trained_stream().horizon_ms(settings.time.rules().lateness_ms),
            self.check,
        )

    def driver(
        self,
        source: Source,
        policy: Policy = as_logged,
        on_outcomes: OnOutcomes = nobody,
    ) -> Driver:
        """A driver of this run."""
        settings = self.settings
        lateness_ms = settings.time.rules().lateness_ms
        horizon_ms = max(
            (stream.horizon_ms(lateness_ms) for stream in self.platform.samples), default=0
        )
        return Driver(
            source,
            events=self.platform.events,
            topics=Topics(
                self.names.events(self.platform.events),
                self.names.snapshots,
                settings.kafka.partitions,
            ),
            outbox=self.outbox,
            client=self.client,
            store=self.store,
            freshness_ms=duration_ms(self.options.freshness),
            horizon_ms=horizon_ms,
            policy=policy,
            on_outcomes=on_outcomes,
            check=self.check,
        )

    def check(self) -> None:
        """Raises:
        WorkerFailedError: a worker has crashed too often.
        KeyboardInterrupt: an interrupt was noted.
        """
        self.workers.check()
        self.interrupts.check()

    def quality(self) -> dict[str, dict[str, float]]:
        """AUC and normalized entropy of each probability over the window, as last published."""
        try:
            report = orjson.loads(self._metrics_file.read_bytes())
        except OSError:
            return {}
        own: dict[str, Any] = report["metrics"]["next" if report["mode"] == "live" else "as_of"]
        known = {task: spans["window"] for task, spans in own.items()}
        return {task: found for task, found in known.items() if found["auc"] is not None}

    def training_speed(self) -> float | None:
        """Rows that the trainer learns in a second of its own work, checkpoints included; None
        where it is not known. Only a look at its live metrics now and then makes it known."""
        trainer = self.scrapes[TRAINER]
        names = "learning_seconds_total", "checkpoint_seconds_sum"
        busy_s = sum(trainer.total(f"tenuto_trainer_{name}") for name in names)
        return round(trainer.total("tenuto_trainer_rows_total") / busy_s, 1) if busy_s else None

    def total(self, metric: str) -> int:
        """A counter's sum over the run's workers, as last scraped; a restart begins anew."""
        return int(sum(scrape.total(metric) for scrape in self.scrapes.values()))

    def dead_letters(self) -> dict[str, int]:
        """How many distinct records were refused, by reason."""
        connection = self.settings.kafka.kafka_python()
        letters = count_by_reason(read(connection, self.names.dead_letters))
        reasons = sorted({reason for _, reason in letters})
        return {r: sum(n for (_, reason), n in letters.items() if reason == r) for r in reasons}

    def wait_for_samples(self, timeout_s: float = 300.0) -> None:
        """Wait until every snapshot is joined and its rows are in their files."""
        for stream in self.platform.samples:
            self.workers.wait(f"sink-{stream.name}", timeout_s)

    def audit(self) -> dict[str, Findings]:
        """Record and audit where the options ask for it: findings as ``{"audit": …}``, else none.

        The samples must be waited for before.

        Raises:
            RecordingError: the folder of the recording is not empty.
        """
        options = self.options
        if not options.audit and options.record is None:
            return {}
        log = record_log(self.platform, self.settings)
        if options.record is not None:
            write_recording(log, options.record)
        if not options.audit:
            return {}
        files = {stream.name: options.samples_dir(stream.name) for stream in self.platform.samples}
        state = read_state(self.platform, self.settings)
        findings = audit_log(
            self.platform, self.settings, log, files=files, state=state, strict=True
        )
        return {"audit": findings}

    def wait_for_training(self, timeout_s: float = 300.0) -> dict[str, Any]:
        """Wait until the trainer has learnt all samples; its figures."""
        training = self.options.training
        assert training is not None, "there is a trainer"
        self.workers.wait(TRAINER, timeout_s)
        return training_figures(self._metrics_file, training.store)


def training_figures(metrics_file: Path, store: Path) -> dict[str, Any]:
    """What a trainer says of itself at the end, by flat names: ``auc_ctr``, ``auc_ctr_served``."""
    from tenuto.trainer.checkpoints.reader import CheckpointReader

    report = orjson.loads(metrics_file.read_bytes())
    own, metrics = ("next" if report["mode"] == "live" else "as_of"), report["metrics"]
    found: dict[str, Any] = {
        "trained_rows": report["rows"],
        "trained_batches": report["batches"],
        "tasks": list(metrics[own]),
        "scored": own,
        "version": report["version"],
        "weights": CheckpointReader(str(store), report["model"])
        .manifest(report["version"])
        .weights,
    }
    for kind, suffix in ((own, ""), ("served", "_served")):
        for task, spans in metrics[kind].items():
            for name in ("auc", "ne", "calibration", "gauc"):
                found[f"{name}_{task}{suffix}"] = spans["lifetime"][name]
    for task, intervals in report.get("intervals", {}).items():
        for name, estimate in intervals.items():
            found[f"{name}_{task}"] = estimate["value"]
            found[f"{name}_{task}_low"] = estimate["low"]
            found[f"{name}_{task}_high"] = estimate["high"]
    return found


def run_settings(settings: Settings, *, namespace: str, partitions: int) -> Settings:
    """Settings of a run: a namespace, few partitions, time made by the driver, quick takeovers."""
    kafka = msgspec.structs.replace(settings.kafka, partitions=partitions)
    workers = msgspec.structs.replace(
        settings.workers,
        live=False,
        metrics_port=0,
        # One worker of each kind: its name is enough.
        instance="run",
        session_timeout_s=6.0,
        rebalance_timeout_s=4.0,
    )
    return msgspec.structs.replace(settings, namespace=namespace, kafka=kafka, workers=workers)


def figures(counts: Counts, started_s: float) -> dict[str, Any]:
    """What a run did, for its JSON file."""
    waits = sorted(counts.freshness_ms)

    def quantile(q: float) -> float | None:
        return round(waits[min(len(waits) - 1, int(q * len(waits)))], 3) if waits else None

    return {
        "events": sum(counts.events.values()),
        "events_by_topic": dict(sorted(counts.events.items())),
        "snapshots": counts.requests,
        "rows": counts.rows,
        "boundaries": counts.boundaries,
        "heartbeats": counts.heartbeats,
        "freshness_p50_ms": quantile(0.50),
        "freshness_p99_ms": quantile(0.99),
        "seconds": round(time.monotonic() - started_s, 2),
    }
