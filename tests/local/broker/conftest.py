"""Brokers to hold against each other: ours, and Apache Kafka where KAFKA_HOME names one."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from tenuto import local

# Helpers are plain modules beside the tests that use them.
sys.path.insert(0, str(Path(__file__).parent))

from raw_client import RawClient


@pytest.fixture
def bootstrap(stack: local.LocalStack) -> str:
    return stack.bootstrap


@pytest.fixture
def admin(bootstrap: str) -> Iterator[KafkaAdminClient]:
    with KafkaAdminClient(bootstrap_servers=bootstrap) as client:
        yield client


@pytest.fixture
def new_name() -> str:
    return f"t-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def make_topic(admin: KafkaAdminClient, bootstrap: str) -> Callable[..., str]:
    def make(partitions: int = 1, **settings: str) -> str:
        name = f"t-{uuid.uuid4().hex[:10]}"
        wanted = {
            "num_partitions": partitions,
            "replication_factor": 1,
            "configs": {key.replace("_", "."): value for key, value in settings.items()},
        }
        admin.create_topics({name: wanted}, wait_for_metadata=True)
        # Apache Kafka tells of a topic a little before it leads its partitions.
        with RawClient(bootstrap) as client:
            offsets = dict.fromkeys(range(partitions), 0)
            while any(one.error_code for one in client.fetch(name, offsets).values()):
                pass
        return name

    return make
