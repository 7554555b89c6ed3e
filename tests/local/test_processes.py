"""One child server: readiness, stops, and the error that names its log."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest

from tenuto.local.processes import Child, Server, StackError, accepts, free_port


def shell(script: str, tmp_path: Path, *, answers: bool, ready_timeout_s: float = 20.0) -> Child:
    return Child(
        Server(
            name="toy",
            port=0,
            argv=("/bin/sh", "-c", script),
            log_path=tmp_path / "logs/toy.log",
            answers=lambda _pid: answers,
            ready_timeout_s=ready_timeout_s,
        )
    )


def test_a_server_that_exits_is_named_with_its_status_and_log_in_one_line(tmp_path: Path) -> None:
    child = shell("echo no space left; exit 3", tmp_path, answers=False)
    with pytest.raises(StackError) as caught:
        child.wait_ready()
    log = tmp_path / "logs/toy.log"
    assert str(caught.value) == f"toy: sh exited with status 3 before it served (log: {log})"
    assert caught.value.log_path == log
    assert caught.value.log_tail == "no space left"
    assert "no space left" in caught.value.__notes__[0]


def test_a_server_that_never_answers_is_given_up_after_its_bound(tmp_path: Path) -> None:
    child = shell("exec sleep 600", tmp_path, answers=False, ready_timeout_s=0.1)
    with pytest.raises(StackError, match=r"did not answer within 0\.1 s"):
        child.wait_ready()
    child.kill()


def test_the_tail_holds_the_last_lines_of_the_last_run_only(tmp_path: Path) -> None:
    for script, tail in (("seq 100; exit 1", range(81, 101)), ("seq 3; exit 1", range(1, 4))):
        with pytest.raises(StackError) as caught:
            shell(script, tmp_path, answers=False).wait_ready()
        assert caught.value.log_tail.split() == [str(line) for line in tail]


def test_a_server_that_ignores_sigterm_is_killed_after_the_bound(tmp_path: Path) -> None:
    child = shell('trap "" TERM; while :; do sleep 600; done', tmp_path, answers=True)
    child.wait_ready()
    child.terminate()
    child.wait_stopped(0.2)
    assert not child.is_alive()


def test_a_kill_reaches_what_the_server_itself_started(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "listen.py").write_text(
        "import socket, time\n"
        f"server = socket.create_server(('127.0.0.1', {port}))\n"
        "time.sleep(600)\n"
    )
    child = shell(f"{sys.executable} {tmp_path}/listen.py; true", tmp_path, answers=True)
    while not accepts(port):
        assert child.is_alive()
    child.kill()
    # The grandchild is init's to reap: it goes a moment later.
    deadline = time.monotonic() + 20.0
    while accepts(port):
        assert time.monotonic() < deadline


def test_stopping_what_has_already_exited_is_no_error(tmp_path: Path) -> None:
    child = shell("exit 0", tmp_path, answers=False)
    while child.is_alive():
        pass
    child.terminate()
    child.wait_stopped(1.0)
    child.kill()
    assert not child.is_alive()


def test_neighbouring_free_ports_are_all_free_and_outside_the_ephemeral_range() -> None:
    first = free_port(consecutive=3)
    assert 20_000 <= first < 32_768
    for port in range(first, first + 3):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
