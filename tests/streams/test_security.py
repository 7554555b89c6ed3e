"""An Apache Kafka that wants TLS, SASL or certificates: everybody reaches it by ``[kafka]`` alone.

Three client libraries connect to it (kafka-python, aiokafka, and Faust over aiokafka), so each
process is asked to do its work, not only to connect.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import MODEL, NO_WAIT
from click.testing import CliRunner, Result
from ranker_files import model_checkpoint
from secure_servers import PASSWORD, Certificates, make_certificates, secure_kafka

import tenuto
from tenuto import local
from tenuto.cli import main
from tenuto.drive.workers import Workers
from tenuto.settings import Settings, load
from tenuto.snapshot.dataset import Samples
from tenuto.trainer.checkpoints.announcer import TopicAnnouncer
from tenuto.trainer.checkpoints.feed import CheckpointFeed
from tenuto.trainer.checkpoints.writer import Publisher
from tenuto.trainer.topic_source import TopicSource

pytestmark = pytest.mark.stack

TLS = "SCRAM-SHA-512 over TLS"

APP = """
from tenuto.platform import Platform
from tenuto.presets import video
from tenuto.snapshot.labels import SampleStream, first

clicked = first(video.clicks, "clicked", window="1s", delay="click_delay_ms")
app = Platform(
    "guarded", events=video.events, features=video.small,
    samples=[SampleStream("default", [clicked], impression_window="1s")],
)
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def listeners(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, dict[str, str]]]:
    """``[kafka]`` settings by listener."""
    with secure_kafka(tmp_path_factory.mktemp("kafka"), certificates) as found:
        yield found


@pytest.fixture
def env(
    embedded: local.LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Variables of an application with short windows, in a namespace of its own; no Kafka yet."""
    (tmp_path / "guardedapp.py").write_text(APP)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("guardedapp", None)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TENUTO_")}
    return inherited | {
        "TENUTO_APP": "guardedapp:app",
        "TENUTO_NAMESPACE": f"n{uuid.uuid4().hex[:8]}",
        "TENUTO_KAFKA__PARTITIONS": "2",
        "TENUTO_REDIS__URL": embedded.redis_url,
        "TENUTO_SINK__SNAPSHOTS_PER_FILE": "1",
        "TENUTO_TIME__LATENESS": "1s",
        "TENUTO_TIME__SNAPSHOT_LATENESS": "1s",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }


def to(listener: dict[str, str]) -> dict[str, str]:
    return {f"TENUTO_KAFKA__{name.upper()}": value for name, value in listener.items()}


def command(env: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env=env)


def with_topics(env: dict[str, str]) -> Settings:
    """Settings of the application, once the command has made its topics."""
    made = command(env, "topics")
    assert made.exit_code == 0, made.output
    assert "created" in made.output
    return load(env=env).settings


def click(number: int) -> dict[str, Any]:
    return {
        "request_id": f"r{number}", "user_id": "u", "query": "q", "item_id": "a", "position": 0,
        "ts": time.time_ns() // 1_000_000,
    }  # fmt: skip


def wait_for_clicks(client: tenuto.Tenuto, clicks: float, log: Path) -> None:
    give_up_s = time.monotonic() + 60
    while True:
        request = tenuto.Request("later", "u", "q", time.time_ns() // 1_000_000)
        matrix = client.read(request, ["a"], timeout_ms=5_000)
        if matrix.column("item_clicks_1h") == [clicks]:
            return
        assert time.monotonic() < give_up_s, log.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("listener", ["PLAIN", "SCRAM-SHA-256", "certificate"])
def test_topics_are_made_and_an_event_is_sent(
    listener: str, listeners: dict[str, dict[str, str]], env: dict[str, str]
) -> None:
    with tenuto.connect(settings=with_topics(env | to(listeners[listener]))) as client:
        client.send("clicks", click(1))
        client.flush()
        assert client.events.counts.acknowledged == 1


@pytest.mark.parametrize("listener", ["PLAIN", "certificate"])
def test_the_feature_worker_counts_an_event(
    listener: str, listeners: dict[str, dict[str, str]], env: dict[str, str], tmp_path: Path
) -> None:
    env |= to(listeners[listener])
    settings = with_topics(env)
    with tenuto.connect(settings=settings) as client, Workers(env, tmp_path) as workers:
        workers.start("features", ["worker", "features"])
        client.send("clicks", click(1))
        client.flush()
        wait_for_clicks(client, 1.0, tmp_path / "features.log")
        workers.check()
        assert workers.all_restarts() == {"features": 0}


def test_a_request_becomes_a_sample_that_trainers_and_people_read(
    listeners: dict[str, dict[str, str]],
    env: dict[str, str],
    tmp_path: Path,
) -> None:
    env |= to(listeners[TLS])
    settings = with_topics(env)
    kafka, topic = settings.kafka, f"{settings.namespace}.samples"
    options = kafka.kafka_python()
    with tenuto.connect(settings=settings) as client, Workers(env, tmp_path) as workers:
        workers.start("features", ["worker", "features"])
        workers.start("join", ["worker", "join"])
        workers.start("sink", ["sink", "parquet", "--dir", str(tmp_path / "files")])
        request = tenuto.Request("r1", "u", "q", time.time_ns() // 1_000_000)
        matrix = client.read(request, ["a"], timeout_ms=5_000)
        assert client.capture(request, shown=["a"], matrix=matrix)
        client.send("impressions", click(1))
        client.send("clicks", click(1))
        client.flush()

        give_up_s = time.monotonic() + 60
        samples = Samples(f"kafka://{kafka.bootstrap}/{topic}", options=options)
        while not (rows := samples.table().to_pylist()):
            assert time.monotonic() < give_up_s, (tmp_path / "join.log").read_text()
            time.sleep(0.2)
        assert [(row["request_id"], row["clicked"]) for row in rows] == [("r1", 1)]

        with TopicSource(topic, options) as source:
            learnt = 0
            while not learnt:
                assert time.monotonic() < give_up_s
                found = [read.rows for read in source.poll(()) if read.rows is not None]
                learnt = sum(batch.num_rows for batch in found)
        assert learnt == 1

        wait_for_clicks(client, 1.0, tmp_path / "features.log")
        while not list((tmp_path / "files").rglob("*.parquet")):
            assert time.monotonic() < give_up_s, (tmp_path / "sink.log").read_text()
            time.sleep(0.1)
        workers.check()
        assert set(workers.all_restarts().values()) == {0}
    looked = command(env, "inspect", "request", "r1")
    assert (looked.exit_code, "clicked" in looked.output) == (0, True)
    assert command(env, "dead-letters").exit_code == 0


def test_checkpoints_are_announced_and_followed(
    listeners: dict[str, dict[str, str]],
    env: dict[str, str],
    tmp_path: Path,
) -> None:
    env |= to(listeners[TLS])
    settings = with_topics(env)
    options, topic = settings.kafka.kafka_python(), f"{settings.namespace}.checkpoints"
    announcer = TopicAnnouncer(topic, options)
    store = str(tmp_path / "store")
    publisher = Publisher(store, MODEL, announcers=[announcer], retry=NO_WAIT)
    publisher.publish(model_checkpoint(1))
    announcer.close()
    url = f"kafka://{settings.kafka.bootstrap}/{topic}"
    with CheckpointFeed(url, model=MODEL, store=store, follow=False, kafka=options) as feed:
        give_up_s = time.monotonic() + 30
        while feed.version != model_checkpoint(1).version:
            assert time.monotonic() < give_up_s, feed.refused
            feed.poll()


OTHER_USER = "wants another user or password: see kafka.sasl_username and kafka.sasl_password"
UNTRUSTED = "its certificate is not trusted: "
OWN = "does it want a certificate (kafka.ssl_certfile)?"
PROTOCOL = "is that its protocol (kafka.security_protocol)"


@pytest.mark.parametrize(
    ("listener", "host", "changes", "code", "says"),
    [
        ("PLAIN", "127.0.0.1", {"sasl_password": "guessed"}, 2, OTHER_USER),
        ("SCRAM-SHA-256", "127.0.0.1", {"sasl_username": "nobody"}, 2, OTHER_USER),
        (TLS, "127.0.0.1", {"sasl_password": "guessed"}, 2, OTHER_USER),
        (
            TLS,
            "127.0.0.1",
            {"sasl_mechanism": "PLAIN"},
            2,
            "does not take PLAIN: see kafka.sasl_mechanism",
        ),
        (TLS, "127.0.0.1", {"ssl_cafile": ""}, 3, UNTRUSTED),
        (TLS, "127.0.0.1", {"ssl_cafile": "other"}, 3, UNTRUSTED),
        (TLS, "localhost", {}, 3, UNTRUSTED + "Hostname mismatch"),
        (TLS, "127.0.0.1", {"security_protocol": "SASL_PLAINTEXT", "ssl_cafile": ""}, 3, PROTOCOL),
        ("PLAIN", "127.0.0.1", {"security_protocol": "SASL_SSL"}, 3, PROTOCOL),
        ("certificate", "127.0.0.1", {"ssl_certfile": "", "ssl_keyfile": ""}, 3, OWN),
    ],
)
def test_a_command_that_is_refused_says_it_in_one_line(
    listener: str,
    host: str,
    changes: dict[str, str],
    code: int,
    says: str,
    listeners: dict[str, dict[str, str]],
    certificates: Certificates,
    env: dict[str, str],
) -> None:
    if changes.get("ssl_cafile"):
        changes = {"ssl_cafile": certificates.other_ca}
    wrong = listeners[listener] | changes
    wrong["bootstrap"] = wrong["bootstrap"].replace("127.0.0.1", host)
    refused = command(env | to(wrong), "topics")
    (line,) = refused.stderr.splitlines()
    assert (refused.exit_code, refused.stdout) == (code, ""), line
    assert line.startswith(f"tenuto: kafka at {wrong['bootstrap']}")
    assert says in line
    assert PASSWORD not in line


def test_no_log_line_of_a_library_joins_what_is_said(
    listeners: dict[str, dict[str, str]], env: dict[str, str]
) -> None:
    # Both libraries log that PLAIN without TLS sends the password in the clear.
    wrong = env | to(listeners["PLAIN"] | {"sasl_password": "guessed"})
    topics = [sys.executable, "-m", "tenuto", "topics"]
    ran = subprocess.run(topics, env=wrong, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1), ran.stderr
