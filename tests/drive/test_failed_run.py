from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from tenuto.drive.run import Run, RunOptions, run_settings
from tenuto.presets import video
from tenuto.settings import load
from tenuto.streams.outbox import SendError
from tenuto.streams.sending import Sending


def break_off(run: Run) -> Sending:
    """Send something while the broker does not answer, and be interrupted."""
    broker = run.stack.broker_pid
    os.kill(broker, signal.SIGSTOP)
    # The workers need it to stop.
    threading.Timer(8.0, os.kill, (broker, signal.SIGCONT)).start()
    return run.outbox.send(run.names.of("clicks"), b"{}", partition=0)


def test_a_run_that_is_broken_off_does_not_wait_for_what_it_had_sent(tmp_path: Path) -> None:
    settings = run_settings(load(env={}).settings, namespace="broken-off", partitions=1)
    options = RunOptions(settings, video.app, tmp_path / "out", tmp_path / "work")
    sendings = []
    try:
        with Run(options) as run:
            sendings.append(break_off(run))
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    with pytest.raises((SendError, TimeoutError)):
        sendings[0].result(0)
