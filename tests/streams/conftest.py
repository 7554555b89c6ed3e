"""Real brokers for the tests of this folder, ours and Apache Kafka, and topics on them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import pytest
from kafka.admin import KafkaAdminClient, NewTopic

from tenuto import local

PARTITIONS = 4


@pytest.fixture(scope="session", params=["embedded", "kafka"])
def stack(request: pytest.FixtureRequest) -> Iterator[local.LocalStack]:
    if request.param == "kafka" and not os.environ.get("KAFKA_HOME"):
        pytest.skip("KAFKA_HOME names no Apache Kafka")
    with local.start(request.param, redis=False, partitions_default=PARTITIONS) as running:
        yield running


@pytest.fixture
def bootstrap(stack: local.LocalStack) -> str:
    return stack.bootstrap


@pytest.fixture
def make_topic(bootstrap: str) -> Iterator[Callable[..., str]]:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)

    def make(name: str = "", partitions: int = PARTITIONS, **settings: str) -> str:
        name = name or f"t-{uuid.uuid4().hex[:8]}"
        configs = {key.replace("_", "."): value for key, value in settings.items()}
        admin.create_topics([NewTopic(name, partitions, 1, topic_configs=configs)])
        return name

    yield make
    admin.close()
