"""What a live trainer serves, against what docs/metrics.md says it does."""

from __future__ import annotations

import time
import uuid

import pytest
from documented_metrics import documented, documented_labels, scrape, served, total
from kafka import KafkaProducer
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from video_samples import ITEMS, STEP_MS, T, end, record

from tenuto import local
from tenuto.drive.workers import Workers
from tenuto.local.processes import free_port
from tenuto.presets import video
from tenuto.settings import Settings, environment, load
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import Topics
from tenuto.topic_plan import topic_plan
from tenuto.trainer.train_metrics import TrainMetrics

PARTITIONS, SNAPSHOTS, BATCH_ROWS = 2, 60, 64
ROWS = PARTITIONS * SNAPSHOTS * ITEMS
LACKING = video.small[0].name


def write_samples(settings: Settings) -> None:
    """Ten minutes of samples up to their end mark, which lack a column of the model."""
    topic = TopicNames(settings.namespace).of(video.samples[0].topic)
    producer = KafkaProducer(**settings.kafka.kafka_python())
    for partition in range(PARTITIONS):
        for interval, value in (record(partition, 0, SNAPSHOTS, lacking=LACKING), end(SNAPSHOTS)):
            sent = producer.send(topic, value, partition=partition, headers=interval.headers())
            sent.get(10)
    producer.close()


@pytest.fixture(scope="module")
def scraped(
    embedded: local.LocalStack, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Metric]:
    """Families by name of a live trainer that has come to the end of its samples."""
    folder, port = tmp_path_factory.mktemp("trainer"), free_port()
    env = {
        "TENUTO_NAMESPACE": f"m{uuid.uuid4().hex[:8]}",
        "TENUTO_KAFKA__BOOTSTRAP": embedded.bootstrap,
        "TENUTO_KAFKA__PARTITIONS": str(PARTITIONS),
        "TENUTO_TRAINER__STORE": str(folder / "checkpoints"),
        "TENUTO_TRAINER__BATCH_ROWS": str(BATCH_ROWS),
        "TENUTO_TRAINER__CHECKPOINT_EVERY": "5m",
        "TENUTO_WORKERS__METRICS_PORT": str(port),
    }
    settings = load(env=env).settings
    with Topics(settings.kafka) as admin:
        admin.create(topic_plan(settings, video.app))
    write_samples(settings)
    with Workers(environment(settings), folder / "logs") as workers:
        workers.start("trainer", ["train"])
        return settled(port, workers)


def settled(port: int, workers: Workers) -> dict[str, Metric]:
    """A trainer's families once it has shown how good the last row was."""
    deadline = time.monotonic() + 60
    while True:
        workers.check()
        try:
            families = scrape(port)
        except OSError:
            families = {}
        if total(families, "tenuto_trainer_rows_total") == ROWS and total(
            families, "tenuto_trainer_learnt_timestamp_seconds"
        ):
            return families
        assert time.monotonic() < deadline, families
        time.sleep(0.1)


@pytest.mark.stack
def test_a_live_trainer_serves_exactly_what_is_documented(scraped: dict[str, Metric]) -> None:
    assert served(scraped.values()) == documented("Trainer")


@pytest.mark.stack
def test_its_labels_are_those_that_are_documented(scraped: dict[str, Metric]) -> None:
    labels = documented_labels("Trainer")
    found = {
        sample.name: set(sample.labels)
        for family in scraped.values()
        for sample in family.samples
        if sample.name in labels
    }
    assert found == {name: labels[name] for name in found}
    # A histogram's samples have names of their own.
    kinds = documented("Trainer")
    assert {kinds[name] for name in labels.keys() - found.keys()} <= {"histogram"}


@pytest.mark.stack
def test_its_main_metrics_have_moved(scraped: dict[str, Metric]) -> None:
    def value(name: str, **labels: str) -> float:
        return total(scraped, f"tenuto_{name}", **labels)

    assert value("trainer_batches_total") == ROWS // BATCH_ROWS
    assert value("trainer_bad_batches_total") == 0
    assert value("trainer_missing_column_rows_total", column=LACKING) == ROWS
    assert 0 < value("trainer_loss", task="ctr") < 10
    assert value("trainer_learning_seconds_total") > 0
    last_s = (T + (SNAPSHOTS - 1) * STEP_MS) / 1000
    assert value("trainer_learnt_timestamp_seconds") == last_s
    assert value("trainer_front_timestamp_seconds") > last_s
    assert value("trainer_waiting_rows") == 0
    assert value("consumer_lag_records") == 0
    assert value("trainer_ids", table="item") == 20
    assert value("trainer_unattributed_rows", task="cvr") > 0
    assert value("task_quality", task="ctr", kind="next", span="window", metric="ne") > 0
    assert value("task_quality", task="ctr", kind="served", span="lifetime", metric="auc") > 0
    assert value("trainer_checkpoints_total") >= 2
    assert value("trainer_checkpoint_failures_total") == 0
    assert value("trainer_checkpoint_seconds_count") == value("trainer_checkpoints_total")
    assert value("trainer_checkpoint_bytes") > 10_000
    assert value("trainer_checkpoint_timestamp_seconds") > T / 1000


def test_what_the_class_declares_is_what_is_documented() -> None:
    registry = CollectorRegistry()
    TrainMetrics(registry)
    assert served(registry.collect()) == documented("Trainer")
