"""A live schedule: the broker stamps time, workers keep it going, and a client serves."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from fault_client import SERVES
from fault_drive import PATIENCE_S, Clock, WatchedOutbox
from fault_field import Field
from fault_schedule import Schedule
from fault_servers import Servers

from tenuto.drive.run import Run, RunOptions
from tenuto.features.durations import duration_ms
from tenuto.local.lifeline import BoundProcess
from tenuto.settings import environment
from tenuto.streams.heartbeats import heartbeat

SERVES_S = 7.0
_WAIT_S = 120.0


class Client:
    """The serving client's process; started again where it was killed."""

    def __init__(self, run: Run, folder: Path) -> None:
        self._run, self._folder, self._number = run, folder, 0
        self.start()

    def start(self) -> None:
        """Start it; its requests have ids of their own."""
        self._number += 1
        settings = self._run.settings
        command = [
            sys.executable, str(Path(__file__).with_name("fault_client.py")),
            settings.app, f"c{self._number}-",
        ]  # fmt: skip
        self._log = self._folder / f"client{self._number}.log"
        with self._log.open("wb") as log:
            self._bound = BoundProcess(
                command, log=log, env={**os.environ, **environment(settings)}
            )

    def kill(self) -> None:
        """SIGKILL, and another one takes its place."""
        self._bound.process.kill()
        self._bound.process.wait()
        self.start()

    def wait_until_it_serves(self) -> None:
        """Wait until it has captured a request.

        Raises:
            TimeoutError: it does not get there.
        """
        deadline = time.monotonic() + _WAIT_S
        while SERVES not in self._log.read_text():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the client serves nobody: {self._log.read_text()[-500:]}")
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        self._bound.process.send_signal(number)

    def stop(self) -> None:
        """Let it hand over what it has."""
        self._bound.process.send_signal(signal.SIGCONT)
        self._bound.process.terminate()
        self._bound.process.wait(60.0)


def drive_live(
    schedule: Schedule, options: RunOptions, servers: Servers, folder: Path, arrange: Any
) -> tuple[Field, dict[str, Any]]:
    """Serve for some seconds under faults, then wait until everything is final."""
    with Run(options) as run:
        clock = Clock(0, int(SERVES_S * 1_000))
        field = Field(
            schedule, servers, run, run.store, WatchedOutbox(run.outbox, clock), clock, folder
        )
        for kind, count in schedule.workers.items():
            for _ in range(count - 1):
                field.start_another(kind)
        field.client = Client(run, folder)
        field.client.wait_until_it_serves()
        arrange(field)
        started = time.monotonic()
        while (served_s := time.monotonic() - started) < SERVES_S:
            for when in ("record", "applying", "boundary"):
                field.reach(when, served_s / SERVES_S)
            run.workers.check()
            time.sleep(0.02)
        field.later.finish()
        field.client.wait_until_it_serves()
        field.client.stop()
        rules = run.settings.time.rules()
        horizon_ms = options.platform.samples[0].horizon_ms(rules.lateness_ms)
        # Heartbeats make the last snapshots final; nothing else is written any more.
        time.sleep((horizon_ms + duration_ms("1s")) / 1_000)
        _end(run, [run.names.snapshots])
        _end(run, list(run.names.events(run.platform.events).values()))
        run.wait_for_samples(_WAIT_S)
        return field, {
            "restarts": {k: n for k, n in run.workers.all_restarts().items() if n},
        }


def _end(run: Run, topics: list[str]) -> None:
    beat = heartbeat(end=True)
    for topic in topics:
        for partition in range(run.settings.kafka.partitions):
            run.outbox.send(topic, beat.value, partition=partition, headers=beat.headers)
    run.outbox.flush(PATIENCE_S)
