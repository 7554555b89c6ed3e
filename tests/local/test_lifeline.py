"""Children die with their parent, however it ends, and only with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tenuto.local.lifeline import BoundProcess

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")

SLEEPER = """
import os, sys, time
from tenuto.local.lifeline import BoundProcess
child = BoundProcess(
    ["/bin/sleep", "600"], log=open(os.devnull, "ab"), env={}, mechanism=sys.argv[1]
)
print(child.process.pid, flush=True)
time.sleep(600)
"""

STACK = """
import sys, time
from tenuto import local
stack = local.start(sys.argv[1])
print(stack.broker_pid, stack.redis_pid, stack.data_dir, flush=True)
time.sleep(600)
"""


def runs(pid: int) -> bool:
    """Whether the process exists and is no zombie (an orphan's zombie waits for init)."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return state != "" and not state.startswith("Z")


def wait_until_gone(pids: list[int], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while any(runs(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still running: {pids}"
        time.sleep(0.05)


def first_line_then_kill(script: str, argument: str) -> list[str]:
    """Run the script in a Python of its own, read the line that it prints, kill it with -9."""
    parent = subprocess.Popen(
        [sys.executable, "-c", script, argument], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        words = parent.stdout.readline().split()
        assert words, "the script ended before it printed"
        assert runs(int(words[0]))
        parent.kill()
        parent.wait()
    return words


@pytest.mark.parametrize("mechanism", [pytest.param("kernel", marks=ON_LINUX), "watchdog"])
def test_a_child_dies_when_its_parent_is_killed(mechanism: str) -> None:
    wait_until_gone([int(first_line_then_kill(SLEEPER, mechanism)[0])])


@pytest.mark.stack
@ON_LINUX
@pytest.mark.parametrize("kind", ["embedded", "kafka"])
def test_both_servers_of_a_stack_die_when_its_process_is_killed(
    kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "kafka":
        request.getfixturevalue("installed_kafka")
    broker, redis, data_dir = first_line_then_kill(STACK, kind)
    wait_until_gone([int(broker), int(redis)])
    subprocess.run(["rm", "-r", data_dir], check=True)


def test_a_child_outlives_the_thread_that_started_it() -> None:
    children: list[BoundProcess] = []
    with Path(os.devnull).open("ab") as log:
        thread = threading.Thread(
            target=lambda: children.append(BoundProcess(["/bin/sleep", "600"], log=log, env={}))
        )
        thread.start()
        thread.join()
    (child,) = children
    with pytest.raises(subprocess.TimeoutExpired):
        child.process.wait(0.3)
    child.process.kill()
    assert child.process.wait() == -signal.SIGKILL
    child.release()


def test_a_program_that_cannot_run_is_named_in_the_log(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("elsewhere the spawn itself raises")
    with (tmp_path / "log").open("ab") as log:
        child = BoundProcess([str(tmp_path / "nothing")], log=log, env={})
    assert child.process.wait() == 1
    assert "nothing: No such file or directory" in (tmp_path / "log").read_text()
