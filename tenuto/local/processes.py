"""One child server: its log, its readiness, its orderly stop, and the error that names its log.

What is run and how its readiness is asked is given by ``embedded``, ``kafka`` and ``redis``; that
it dies with this process is ``lifeline``'s business.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tenuto.local.lifeline import BoundProcess

_TAIL_LINES = 20
_POLL_S = 0.01

# Below Linux's ephemeral range (32768 and up). Inside it, a client that retries a killed server is
# one day handed that server's port as its own, connects to itself, and keeps the server out.
_PORTS = range(20_000, 32_000)


class StackError(RuntimeError):
    """A local stack, or one child of it, cannot be started; the message is one line with the mend.

    ``log_path`` and ``log_tail`` are set when a child failed; a traceback shows the tail as a note.
    """

    def __init__(self, message: str, *, log_path: Path | None = None, log_tail: str = "") -> None:
        super().__init__(message)
        self.log_path = log_path
        self.log_tail = log_tail
        if log_tail:
            self.add_note(f"--- the end of {log_path} ---\n{log_tail}")


@dataclass(frozen=True)
class Server:
    """What to run: a program that stays in the foreground and how to ask whether it serves.

    ``answers`` gets the child's pid and returns whether it serves yet. It may wait for a second or
    so, and returns False rather than raise while nothing listens.
    """

    name: str
    port: int
    argv: tuple[str, ...]
    log_path: Path
    answers: Callable[[int], bool]
    ready_timeout_s: float
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


class Child:
    """A started ``Server``. Not thread-safe: one owner starts, stops and restarts it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        server.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._start()

    @property
    def pid(self) -> int:
        return self._bound.process.pid

    def is_alive(self) -> bool:
        return self._bound.process.poll() is None

    def wait_ready(self) -> None:
        """Return when the server answers.

        Raises:
            StackError: it exited before that, or did not answer in ``ready_timeout_s``.
        """
        deadline = time.monotonic() + self.server.ready_timeout_s
        while self.is_alive():
            if self.server.answers(self.pid):
                return
            if time.monotonic() > deadline:
                raise self._error(f"did not answer within {self.server.ready_timeout_s:g} s")
            time.sleep(_POLL_S)
        raise self._error(f"exited with status {self._bound.process.returncode} before it served")

    def terminate(self) -> None:
        """Ask it to stop; ``wait_stopped`` sees to it that it does."""
        self._signal(signal.SIGTERM)

    def wait_stopped(self, timeout_s: float) -> None:
        """Wait for the exit, with SIGKILL once ``timeout_s`` has passed."""
        try:
            self._bound.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._bound.release()

    def kill(self) -> None:
        """SIGKILL to the child and whatever it started; waits for the child itself to be gone."""
        self._signal(signal.SIGKILL)
        self._bound.process.wait()
        self._bound.release()

    def restart(self, stop_timeout_s: float) -> None:
        """Stop it if it runs, start the same server again and wait until it answers.

        Raises:
            StackError: as ``wait_ready``.
        """
        self.terminate()
        self.wait_stopped(stop_timeout_s)
        self._start()
        self.wait_ready()

    def _start(self) -> None:
        with self.server.log_path.open("ab") as log:
            # The tail that an error shows is this run's, not the last run's.
            self._log_start = log.tell()
            try:
                self._bound = BoundProcess(self.server.argv, log=log, env=self.server.env)
            except OSError as error:
                raise StackError(f"{self.server.name}: cannot run it: {error}") from error

    def _signal(self, number: signal.Signals) -> None:
        # Only while unreaped is the pid, and so the group of the same number, surely still ours.
        if self.is_alive():
            os.killpg(self.pid, number)

    def _error(self, what: str) -> StackError:
        path = self.server.log_path
        with path.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        return StackError(
            f"{self.server.name}: {Path(self.server.argv[0]).name} {what} (log: {path})",
            log_path=path,
            log_tail="\n".join(lines[-_TAIL_LINES:]),
        )


def free_port(consecutive: int = 1) -> int:
    """The first of ``consecutive`` neighbouring loopback ports that nobody listens on.

    Raises:
        StackError: a thousand draws found none.
    """
    for _ in range(1_000):
        first = random.choice(_PORTS)
        if all(_is_free(first + i) for i in range(consecutive)):
            return first
    raise StackError(f"no free loopback port in {_PORTS.start}–{_PORTS.stop}")


def accepts(port: int) -> bool:
    """Whether something listens on the loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: the closed connections of a server's last run do not hold its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
