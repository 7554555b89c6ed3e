"""A real Apache Kafka for the tests of this folder, and topics on it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import pytest
from kafka.admin import KafkaAdminClient, NewTopic

from tenuto import local

PARTITIONS = 4


@pytest.fixture(scope="session")
def stack() -> Iterator[local.LocalStack]:
    if not os.environ.get("KAFKA_HOME"):
        pytest.skip("KAFKA_HOME names no Apache Kafka")
    with local.start("kafka", redis=False, partitions_default=PARTITIONS) as running:
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
