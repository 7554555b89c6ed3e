"""Fixtures shared by all tests: real servers, started once a session."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import settings

from tenuto import local

# A loaded machine is no defect.
settings.register_profile("tenuto", deadline=None)
settings.load_profile("tenuto")

# Oracles and what tests share are plain modules beside the tests that use them.
for folder in ("features", "snapshot", "streams", "serving", "drive", "trainer", "faults", "audit"):
    sys.path.insert(0, str(Path(__file__).parent / folder))


# Of a shell in the background, children ignore it, and so would ours: it is what tests send them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def embedded() -> Iterator[local.LocalStack]:
    """The embedded broker and Redis."""
    with local.start("embedded") as stack:
        yield stack


@pytest.fixture(scope="session")
def kafka() -> Iterator[local.LocalStack]:
    """Apache Kafka and a Redis; skipped where KAFKA_HOME does not name one."""
    if not os.environ.get("KAFKA_HOME"):
        pytest.skip("KAFKA_HOME is not set")
    with local.start("kafka") as stack:
        yield stack


@pytest.fixture(params=["embedded", "kafka"])
def stack(request: pytest.FixtureRequest) -> local.LocalStack:
    """Both stacks, one after the other."""
    found: local.LocalStack = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def redis_url(embedded: local.LocalStack) -> str:
    """An empty Redis."""
    redis.Redis.from_url(embedded.redis_url).flushall()
    return embedded.redis_url
