"""Both kinds of local stack, with real servers: use, crash, restart, failure."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from redis import Redis

from tenuto import local
from tenuto.local.processes import accepts

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module", params=["embedded", "kafka"])
def stack(request: pytest.FixtureRequest) -> Iterator[local.LocalStack]:
    if request.param == "kafka":
        request.getfixturevalue("installed_kafka")
    with local.start(request.param) as running:
        yield running


def create_topic(stack: local.LocalStack, topic: str) -> None:
    with KafkaAdminClient(bootstrap_servers=stack.bootstrap) as admin:
        admin.create_topics(
            {topic: {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True
        )


def write(stack: local.LocalStack, topic: str, value: bytes) -> int:
    producer = KafkaProducer(bootstrap_servers=stack.bootstrap)
    try:
        return int(producer.send(topic, value, partition=1).get(10).offset)
    finally:
        producer.close()


def read_first(stack: local.LocalStack, topic: str) -> bytes:
    consumer = KafkaConsumer(bootstrap_servers=stack.bootstrap, consumer_timeout_ms=10_000)
    try:
        consumer.assign([TopicPartition(topic, 1)])
        consumer.seek_to_beginning()
        return bytes(next(consumer).value)
    finally:
        consumer.close()


def topics(stack: local.LocalStack) -> list[str]:
    with KafkaAdminClient(bootstrap_servers=stack.bootstrap) as admin:
        return list(admin.list_topics())


def server_children() -> set[str]:
    """Pid and name of the processes that this one has started and that still run."""
    lines = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return {line.strip() for line in lines if line.split()[1] != "ps"}


def test_a_record_written_to_the_broker_is_read_back(stack: local.LocalStack) -> None:
    create_topic(stack, "plays")
    assert write(stack, "plays", b"hello") == 0
    assert read_first(stack, "plays") == b"hello"


def test_a_key_set_in_redis_is_read_back(stack: local.LocalStack) -> None:
    with Redis.from_url(stack.redis_url) as redis:
        redis.set("item", "1881")
        assert redis.get("item") == b"1881"


def test_redis_evicts_nothing(stack: local.LocalStack) -> None:
    with Redis.from_url(stack.redis_url) as redis:
        assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_both_servers_write_logs_under_the_data_folder(stack: local.LocalStack) -> None:
    assert stack.broker_log == stack.data_dir / "logs/broker.log"
    assert stack.redis_log == stack.data_dir / "logs/redis.log"
    assert stack.broker_log.stat().st_size > 0
    assert stack.redis_log.stat().st_size > 0


def test_a_restarted_redis_has_the_same_address_another_pid_and_no_data(
    stack: local.LocalStack,
) -> None:
    url, pid = stack.redis_url, stack.redis_pid
    with Redis.from_url(url) as redis:
        redis.set("gone", "1")
    stack.kill_redis()
    assert not stack.is_alive()
    stack.restart_redis()
    assert stack.is_alive()
    assert stack.redis_url == url
    assert stack.redis_pid != pid
    with Redis.from_url(url) as redis:
        assert redis.get("gone") is None


def test_a_killed_broker_returns_at_the_same_address_and_only_kafka_kept_its_records(
    stack: local.LocalStack,
) -> None:
    create_topic(stack, "kept")
    write(stack, "kept", b"before")
    bootstrap = stack.bootstrap
    stack.kill_broker()
    assert not stack.is_alive()
    stack.restart_broker()
    assert stack.bootstrap == bootstrap
    if stack.kind == "kafka":
        assert read_first(stack, "kept") == b"before"
    else:
        assert topics(stack) == []


def test_close_stops_both_servers_and_removes_a_temporary_folder() -> None:
    with local.start("embedded") as stack:
        ports = [int(stack.bootstrap.rpartition(":")[2]), int(stack.redis_url[:-2].split(":")[2])]
        assert all(accepts(port) for port in ports)
        assert stack.data_dir.is_dir()
    assert not any(accepts(port) for port in ports)
    assert not stack.data_dir.exists()


def test_a_data_folder_of_the_callers_outlives_the_stack(tmp_path: Path) -> None:
    with local.start("embedded", data_dir=tmp_path / "data"):
        pass
    assert (tmp_path / "data/logs/broker.log").is_file()


def test_a_persistent_redis_has_its_keys_after_a_restart_and_in_the_next_stack(
    tmp_path: Path,
) -> None:
    with local.start("embedded", data_dir=tmp_path, persist=True) as stack:
        with Redis.from_url(stack.redis_url) as redis:
            redis.set("item", "1881")
        stack.restart_redis()
        with Redis.from_url(stack.redis_url) as redis:
            assert redis.get("item") == b"1881"
    with (
        local.start("embedded", data_dir=tmp_path, persist=True) as stack,
        Redis.from_url(stack.redis_url) as redis,
    ):
        assert redis.get("item") == b"1881"


def test_a_stack_without_redis_says_so_when_asked_for_its_url() -> None:
    with (
        local.start("embedded", redis=False) as stack,
        pytest.raises(local.StackError, match="redis=False"),
    ):
        _ = stack.redis_url


def test_a_broker_that_fails_takes_redis_down_and_the_error_shows_its_log(
    installed_kafka: Path, tmp_path: Path
) -> None:
    script = tmp_path / "home/kafka-server"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\necho disk on fire >&2\nexit 7\n")
    script.chmod(0o755)
    before = server_children()
    with pytest.raises(local.StackError, match=r"exited with status 7 .*broker\.log") as caught:
        local.start("kafka", data_dir=tmp_path / "data", kafka_home=script.parent)
    assert caught.value.log_tail == "disk on fire"
    assert server_children() == before


def test_an_ordinary_kafka_distribution_runs_with_settings_written_here(
    installed_kafka: Path, tmp_path: Path
) -> None:
    libs = installed_kafka / "libs"
    if not libs.is_dir():
        pytest.skip("KAFKA_HOME has no libs folder to build a distribution's layout from")
    binaries = tmp_path / "home/bin"
    binaries.mkdir(parents=True)
    for name, main in (
        ("kafka-storage.sh", "kafka.tools.StorageTool"),
        ("kafka-server-start.sh", "kafka.Kafka"),
    ):
        script = binaries / name
        script.write_text(f'#!/bin/sh\nexec java $KAFKA_HEAP_OPTS -cp "{libs}/*" {main} "$@"\n')
        script.chmod(0o755)
    with local.start(
        "kafka", kafka_home=binaries.parent, redis=False, partitions_default=3
    ) as stack:
        with KafkaAdminClient(bootstrap_servers=stack.bootstrap) as admin:
            admin.create_topics(["plays"], wait_for_metadata=True)
            assert len(admin.describe_topics(["plays"])[0]["partitions"]) == 3
        assert "java" in Path(f"/proc/{stack.broker_pid}/cmdline").read_text()
