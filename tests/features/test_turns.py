from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tenuto.features.turns import Turns


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_more_threads_than_said_have_their_turn_at_once(at_once: int) -> None:
    turns, counted = Turns(at_once), threading.Lock()
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with turns:
                with counted:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.0005)
                with counted:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == at_once


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_child_that_is_forked_in_the_middle_of_all_turns_has_its_own(at_once: int) -> None:
    turns, over = Turns(at_once), threading.Event()
    inside = threading.Barrier(at_once + 1)

    def hold() -> None:
        with turns:
            inside.wait(10)
            over.wait(10)

    threads = [threading.Thread(target=hold) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    child = os.fork()
    if child == 0:
        # One that waits for a turn which nobody will hand over ends here.
        signal.alarm(5)
        with turns:
            os._exit(0)
    over.set()
    for thread in threads:
        thread.join(10)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_turns_are_had_in_the_order_in_which_they_were_asked_for() -> None:
    turns, order = Turns(), []
    threads = []

    def ask(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        for number in range(8):
            threads.append(threading.Thread(target=ask, args=(number,)))
            threads[-1].start()
            time.sleep(0.02)
        assert not order
    for thread in threads:
        thread.join(10)
    assert order == list(range(8))


INTERRUPTED = """
import _thread, os, signal, sys, threading, time
from tenuto.features.turns import Turns

turns, over = Turns(), threading.Event()
def hold():
    with turns:
        over.wait(1)
holder = threading.Thread(target=hold)
holder.start()
time.sleep(0.2)
# The latter is noticed when the wait is over, which is when the turn has been handed over.
interrupt = {
    "waiting": lambda: os.kill(os.getpid(), signal.SIGINT),
    "handed over": _thread.interrupt_main,
}[sys.argv[1]]
threading.Timer(0.2, interrupt).start()
try:
    with turns:
        print("had a turn that another has")
except KeyboardInterrupt:
    print("interrupted")
over.set()
holder.join()
with turns:
    print("free")
"""


@pytest.mark.parametrize("when", ["waiting", "handed over"])
def test_who_is_interrupted_before_the_turn_leaves_it_to_others(when: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, when]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.split() == ["interrupted", "free"], done.stderr
