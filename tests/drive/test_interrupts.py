from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenuto.drive.driver import Counts
from tenuto.drive.interactions import read_log
from tenuto.drive.interrupts import Interrupts
from tenuto.drive.replay import replay
from tenuto.drive.run import Run, RunOptions, run_settings
from tenuto.presets import video
from tenuto.settings import load

HEADER = "request_id,user_id,query,item_id,position,request_ts_ms,impression_ts_ms,click_ts_ms\n"
ROWS = [f"r{n},u{n % 3},q,i{n % 4},0,{1_700_000_000_000 + n * 15_000},,\n" for n in range(20)]


@pytest.fixture(autouse=True)
def _default_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def drive(*steps: Callable[[], object]) -> Iterator[int]:
    """Take steps, asking for interrupts after each; yields how many are done."""
    interrupts = Interrupts()
    with interrupts:
        for number, step in enumerate(steps, 1):
            step()
            yield number
            interrupts.check()


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def fail() -> None:
    raise ZeroDivisionError


def test_an_interrupt_is_raised_where_it_is_asked_for() -> None:
    driving = drive(interrupt, fail)
    assert next(driving) == 1
    with pytest.raises(KeyboardInterrupt):
        next(driving)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_nobody_asked_for_is_raised_at_the_end() -> None:
    interrupts = Interrupts()
    interrupts.__enter__()
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        interrupts.__exit__(None)


def test_a_second_interrupt_is_raised_at_once() -> None:
    driving = drive(interrupt, fail)
    assert next(driving) == 1
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_an_error_is_told_rather_than_an_interrupt_before_it() -> None:
    with pytest.raises(ZeroDivisionError):
        list(drive(lambda: (interrupt(), fail())))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_somebody_else_stays() -> None:
    told = []
    signal.signal(signal.SIGINT, lambda *_: told.append("elsewhere"))
    with Interrupts():
        signal.raise_signal(signal.SIGINT)
    assert told == ["elsewhere"]


def test_in_another_thread_nothing_is_done() -> None:
    failures = []

    def enter() -> None:
        try:
            with Interrupts():
                pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert not failures


@pytest.mark.stack
def test_a_replay_ends_what_it_is_at_before_it_takes_an_interrupt(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(HEADER + "".join(ROWS))
    settings = run_settings(load(env={}).settings, namespace="interrupted", partitions=1)
    options = RunOptions(settings, video.app, tmp_path / "out", tmp_path / "work")
    seen: list[int] = []

    def interrupt_third(_: Run, counts: Counts) -> None:
        if counts.boundaries == 3:
            interrupt()
        seen.append(counts.requests)

    with pytest.raises(KeyboardInterrupt):
        replay(read_log(log, video.events), options, interrupt_third)
    assert seen == [1, 2, 3]
