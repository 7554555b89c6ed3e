"""A run's stream workers as child processes, restarted as a process manager would.

Each is the very command that runs in production (``python -m tenuto worker features``). A worker
that crashes, or is killed, is started again; one that keeps crashing ends the run.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tenuto.local.lifeline import BoundProcess

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.1
# More crashes than this in a row, each soon after its start, are not bad luck.
_MAX_QUICK_CRASHES = 5
_QUICK_S = 10.0


class WorkerFailedError(RuntimeError):
    """A worker cannot run: which, and where its log is."""


@dataclass
class _Worker:
    name: str
    arguments: Sequence[str]
    log_path: Path
    env: Mapping[str, str]
    bound: BoundProcess | None = None
    started_s: float = 0.0
    quick_crashes: int = 0
    restarts: int = 0

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self.bound is not None, "it is started before anybody sees it"
        return self.bound.process


@dataclass
class Workers:
    """Starts, watches and stops worker processes.

    Args:
        env: environment of the children; settings travel in it.
        log_dir: one log file a worker.
    """

    env: Mapping[str, str]
    log_dir: Path
    _workers: dict[str, _Worker] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _failed: WorkerFailedError | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _watcher: threading.Thread | None = None

    def start(
        self, name: str, arguments: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        """Start ``python -m tenuto <arguments>``, with more variables, and keep it running."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        log_path = self.log_dir / f"{name}.log"
        worker = _Worker(name, arguments, log_path, {**self.env, **(env or {})})
        self._spawn(worker)
        with self._lock:
            self._workers[name] = worker
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, daemon=True, name="workers")
            self._watcher.start()

    def check(self) -> None:
        """Raises:
        WorkerFailedError: a worker has crashed too often.
        """
        if self._failed is not None:
            raise self._failed

    def kill(self, name: str) -> int:
        """SIGKILL a worker, as a crash test does; it is started again. Returns its pid."""
        self._workers[name].process.kill()
        return self.pid(name)

    def pid(self, name: str) -> int:
        """Process id of a worker."""
        return self._workers[name].process.pid

    def all_restarts(self) -> dict[str, int]:
        """How often each worker was started again."""
        return {name: worker.restarts for name, worker in self._workers.items()}

    def wait(self, name: str, timeout_s: float) -> None:
        """Wait for a worker that ends by itself.

        Raises:
            TimeoutError: it has not, in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.check()
            if self._workers[name].process.poll() == 0:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} has not ended within {timeout_s:g} s")
            time.sleep(_LOOK_EVERY_S)

    def stop(self, timeout_s: float = 15.0) -> None:
        """SIGTERM all, and SIGKILL what has not ended in time."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
        processes = [worker.process for worker in self._workers.values()]
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self, worker: _Worker) -> None:
        command = [sys.executable, "-m", "tenuto", *worker.arguments]
        with worker.log_path.open("ab") as log:
            worker.bound = BoundProcess(command, log=log, env={**os.environ, **worker.env})
        worker.started_s = time.monotonic()

    def _watch(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            with self._lock:
                workers = list(self._workers.values())
            for worker in workers:
                code = worker.process.poll()
                if code is None or code == 0:
                    continue
                quick = time.monotonic() - worker.started_s < _QUICK_S
                worker.quick_crashes = worker.quick_crashes + 1 if quick else 0
                # Wrong settings do not mend themselves.
                if code == 2 or worker.quick_crashes > _MAX_QUICK_CRASHES:
                    self._failed = WorkerFailedError(
                        f"{worker.name} ended with {code}: {_tail(worker.log_path)} "
                        f"(log: {worker.log_path})"
                    )
                    return
                logger.warning("%s ended with %s: starting it again", worker.name, code)
                worker.restarts += 1
                self._spawn(worker)


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
