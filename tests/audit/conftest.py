"""One recorded run for all tests of the audit."""

from __future__ import annotations

import pytest
from recorded_run import Recorded, record_run

from tenuto import local


@pytest.fixture(scope="session")
def recorded(embedded: local.LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A small replay, as it was recorded."""
    return record_run(embedded, tmp_path_factory.mktemp("audited"))
