"""The embedded broker started anew: it holds nothing, and every topic has another life.

Workers must notice and say so, and ``--reset`` must be enough to begin again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fault_drive import PATIENCE_S

from tenuto.settings import Settings
from tenuto.streams.topics import Topics

if TYPE_CHECKING:
    from fault_field import Field
    from fault_schedule import Fault

_SAYS = "of another life of the topic: restart with --reset"
_WITHIN_S = 60.0


class LifeOverError(Exception):
    """The log of the run is gone, and the run with it.

    Attributes:
        complaints: what should have been noticed and was not.
    """

    def __init__(self, complaints: list[str]) -> None:
        super().__init__("the broker was started anew")
        self.complaints = complaints


def broker_anew(field: Field, fault: Fault) -> None:
    """Kill the broker, start it empty, make the topics anew, and see what a worker says.

    Raises:
        LifeOverError: always, when that is seen.
    """
    run, broker = field.run, field.servers.broker
    assert broker is not None
    # What a client still holds is the old life's, and would come after it.
    field.outbox.inner.flush(PATIENCE_S)
    broker.kill()
    broker.restart(1.0)
    with Topics(run.settings.kafka) as admin:
        admin.create(run.topic_plan)
    worker = _features(run.workers.env)
    try:
        _, said = worker.communicate(timeout=_WITHIN_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        _, said = worker.communicate()
    complaints = []
    if worker.returncode == 0 or _SAYS not in said:
        complaints.append(
            f"broker anew: a worker ended with {worker.returncode} and did not say "
            f"{_SAYS!r}: {said[-400:]}"
        )
    raise LifeOverError(complaints)


def begin_anew(settings: Settings, env: Mapping[str, str]) -> None:
    """Run a worker with ``--reset`` until Redis belongs to the new topics.

    Raises:
        TimeoutError: it does not get there.
    """
    from fault_app import app

    from tenuto.features.buckets import Buckets

    features = app.feature_set(settings.time.rules())
    store = Buckets.connect(
        settings.redis, features.layout, settings.kafka.partitions, settings.namespace
    )
    with Topics(settings.kafka) as admin:
        names = {name: admin.incarnation(f"{settings.namespace}.{name}") for name in
                 store.layout.topics}  # fmt: skip
    slots = [
        store.slot(name, number) for name in names for number in range(settings.kafka.partitions)
    ]
    worker = _features(env, "--reset")
    deadline = time.monotonic() + _WITHIN_S
    try:
        while not all(
            entry is not None and entry.incarnation == names[slot.topic]
            for slot, entries in zip(slots, store.entries(slots), strict=True)
            for entry in entries
        ):
            if time.monotonic() > deadline:
                raise TimeoutError("--reset: Redis still belongs to the old log")
            time.sleep(0.05)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=_WITHIN_S)


def _features(env: Mapping[str, str], *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tenuto", "worker", "features", *options],
        env={**os.environ, **env, "TENUTO_WORKERS__INSTANCE": "anew"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
