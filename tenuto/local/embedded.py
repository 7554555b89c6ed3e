"""The embedded broker: our own (``tenuto.local.broker``) as a child process, memory only.

What it holds is gone when it stops, and a topic made anew has another id.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tenuto.local.processes import Server
from tenuto.local.readiness import broker_answers


def server(*, port: int, log_path: Path, partitions_default: int) -> Server:
    """The embedded broker on ``port``."""
    return Server(
        name="embedded broker",
        port=port,
        argv=(
            sys.executable,
            "-m",
            "tenuto.local.broker",
            f"--port={port}",
            f"--partitions={partitions_default}",
        ),
        log_path=log_path,
        answers=lambda _pid: broker_answers(port),
        ready_timeout_s=20.0,
    )
