"""Where the real Kafka of these tests is, if there is one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def installed_kafka() -> Path:
    """``$KAFKA_HOME``; skips the test where the kafka kind cannot run."""
    if not os.environ.get("KAFKA_HOME"):
        pytest.skip("KAFKA_HOME is not set")
    for program in ("java", "redis-server"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on PATH")
    return Path(os.environ["KAFKA_HOME"])
