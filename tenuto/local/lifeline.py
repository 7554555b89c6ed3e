"""Starting a child process that cannot outlive this one, however this one ends.

On Linux the kernel does it (PR_SET_PDEATHSIG, set by a few lines of Python that then become the
program). Elsewhere a watchdog process holds one end of a pipe and kills the child when the other
end closes. Logs, readiness and orderly stops are in ``processes``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import IO, Literal

Mechanism = Literal["kernel", "watchdog"]

# Not a preexec_fn: that runs Python between fork and exec in a process whose other threads (Kafka
# clients have them) may hold any lock. The parent's pid closes the gap before prctl takes effect.
_BECOME = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
parent, program, *arguments = sys.argv[1:]
if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
    sys.exit("prctl(PR_SET_PDEATHSIG) failed")
if os.getppid() != int(parent):
    sys.exit("the parent is gone already")
try:
    os.execv(program, [program, *arguments])
except OSError as error:
    sys.exit(f"{program}: {error.strerror}")
"""

_WATCH = """
import os, signal, sys
if not sys.stdin.buffer.read(1):
    try:
        os.killpg(int(sys.argv[1]), signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


class BoundProcess:
    """A child process in a session of its own (so Ctrl-C does not reach it) that dies with us.

    Args:
        argv: absolute path of the program, then its arguments.
        log: open file for both output streams.
        env: the whole environment of the child.
        mechanism: how it is bound; by default what the platform has.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: IO[bytes],
        env: Mapping[str, str],
        mechanism: Mechanism | None = None,
    ) -> None:
        mechanism = mechanism or ("kernel" if sys.platform == "linux" else "watchdog")
        self._watchdog: subprocess.Popen[bytes] | None = None
        if mechanism == "kernel":
            shim = [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid())]
            self.process = _on_lasting_thread(lambda: _popen([*shim, *argv], log=log, env=env))
        else:
            self.process = _popen(argv, log=log, env=env)
            self._watchdog = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WATCH, str(self.process.pid)],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )

    def release(self) -> None:
        """Call once the child has been reaped: its pid may soon be somebody else's."""
        if self._watchdog is not None:
            self._watchdog.communicate(b".")
            self._watchdog = None


def _popen(
    argv: Sequence[str], *, log: IO[bytes], env: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=True,
    )


class _LastingThread:
    """A daemon thread that only forks.

    The death signal fires when the *thread* that forked ends, not the process, so a stack started
    from a short-lived thread would die with that thread.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._tasks: SimpleQueue[
            tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]
        ] = SimpleQueue()
        threading.Thread(target=self._work, name="tenuto-local-spawner", daemon=True).start()

    def run(self, task: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        done: Future[subprocess.Popen[bytes]] = Future()
        self._tasks.put((task, done))
        return done.result()

    def _work(self) -> None:
        while True:
            task, done = self._tasks.get()
            try:
                done.set_result(task())
            except BaseException as error:
                done.set_exception(error)


_lasting: _LastingThread | None = None
_lasting_lock = threading.Lock()


def _on_lasting_thread(task: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    global _lasting
    with _lasting_lock:
        # Threads do not cross a fork: a forked worker that starts a stack needs its own.
        if _lasting is None or _lasting.pid != os.getpid():
            _lasting = _LastingThread()
        lasting = _lasting
    return lasting.run(task)
