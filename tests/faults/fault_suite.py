"""``python -m fault_suite``: many seeded schedules of faults, each judged; a summary last.

Every schedule is a process of its own with a time limit, so that none can spoil another. Exits
with 1 where any failed, and says which command runs that one again.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fault_drive import percentile
from fault_fixed import MUTANTS
from fault_schedule import Schedule, Stack, schedule
from fault_servers import shared_kafka

LIMIT_S = 240.0


@dataclass
class Result:
    """A schedule and what came of it; ``failures`` are empty where everything held."""

    schedule: Schedule
    failures: list[str]
    injected: dict[str, int] = field(default_factory=dict)
    recovered: list[float] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def line(self) -> str:
        """One line."""
        verdict = "FAILED" if self.failures else "ok"
        slowest = f", recovered in {max(self.recovered):.1f} s" if self.recovered else ""
        checked = sum(self.notes.get("checked", {}).values())
        text = f"{verdict:>6} {self.seconds:5.1f} s  {self.schedule}  [{checked} checked{slowest}]"
        return "\n".join([text, *(f"         {failure}" for failure in self.failures)])


def run_one(
    one: Schedule, *, broker: str = "", log: Path | None = None, keep: Path | None = None
) -> Result:
    """Run a schedule in a process of its own.

    Args:
        one: what to do.
        broker: a running Apache Kafka for schedules that do not hurt it.
        log: an interaction log.
        keep: keep the folder of a schedule that failed in here.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tenuto-faults-") as temporary:
        folder, out = Path(temporary) / "run", Path(temporary) / "out.json"
        folder.mkdir()
        output = Path(temporary) / "output.log"
        command = [
            sys.executable, str(Path(__file__).with_name("fault_run.py")),
            json.dumps(one.to_json()), str(folder), str(out), broker, str(log or ""),
        ]  # fmt: skip
        with output.open("wb") as to:
            process = subprocess.Popen(command, stdout=to, stderr=to, start_new_session=True)
            try:
                process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if out.exists():
            result = Result(one, **json.loads(out.read_text()))
        else:
            tail = output.read_text(errors="replace").strip().splitlines()[-8:]
            result = Result(one, [f"ended with {process.returncode}: " + "\n".join(tail)])
        result.seconds = round(time.monotonic() - started, 1)
        if result.failures and keep is not None:
            kept = keep / f"{one.seed}-{one.id}{one.mutant}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(temporary, kept, ignore=shutil.ignore_patterns("broker"))
    return result


def run_all(
    schedules: Sequence[Schedule],
    *,
    jobs: int = 1,
    log: Path | None = None,
    keep: Path | None = None,
    told: Any = print,
) -> list[Result]:
    """Run schedules, ``jobs`` at a time; Apache Kafka is started once where some need it."""
    results: list[Result] = []
    todo: queue.SimpleQueue[Schedule] = queue.SimpleQueue()
    for one in schedules:
        todo.put(one)
    with ExitStack() as exit_stack:
        broker = ""
        if any(one.stack == "kafka" for one in schedules):
            folder = exit_stack.enter_context(tempfile.TemporaryDirectory(prefix="tenuto-kafka-"))
            child = shared_kafka(Path(folder))
            exit_stack.callback(child.kill)
            broker = f"127.0.0.1:{child.server.port}"

        def work() -> None:
            while True:
                try:
                    one = todo.get_nowait()
                except queue.Empty:
                    return
                result = run_one(one, broker=broker, log=log, keep=keep)
                results.append(result)
                told(result.line())

        threads = [threading.Thread(target=work) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return results


def stacks() -> list[Stack]:
    """Those that this machine has."""
    return ["embedded", "kafka"] if os.environ.get("KAFKA_HOME") else ["embedded"]


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Counts, recovery times and failures of many schedules."""
    injected: Counter[str] = Counter()
    checked: Counter[str] = Counter()
    for result in results:
        injected.update(result.injected)
        checked.update(result.notes.get("checked", {}))
    recovered = [seconds for result in results for seconds in result.recovered]
    return {
        "schedules": len(results),
        "failed": sum(bool(result.failures) for result in results),
        "by_stack": dict(Counter(result.schedule.stack for result in results)),
        "faults": dict(sorted(injected.items())),
        "checked": dict(sorted(checked.items())),
        "recoveries": len(recovered),
        "recovery_p50_s": round(percentile(recovered, 0.5), 2),
        "recovery_p99_s": round(percentile(recovered, 0.99), 2),
        "recovery_max_s": round(max(recovered, default=0.0), 2),
        "seconds": round(sum(result.seconds for result in results), 1),
    }


def told_summary(results: Sequence[Result]) -> str:
    """The summary as text, with the command that runs each failure again."""
    found = summary(results)
    faults = ", ".join(f"{n} {kind}" for kind, n in found["faults"].items())
    lines = [
        f"{found['schedules']} schedules ({found['by_stack']}): {found['failed']} failed",
        f"faults: {faults}",
        f"checked: {', '.join(f'{n:,} {name}' for name, n in found['checked'].items())}",
        f"recovery of {found['recoveries']}: p50 {found['recovery_p50_s']} s, "
        f"p99 {found['recovery_p99_s']} s, max {found['recovery_max_s']} s",
    ]
    for result in results:
        if result.failures:
            one = result.schedule
            lines.append(f"FAILED: make faults SEED={one.seed} SCHEDULES=1 ONLY={one.id}   ({one})")
    return "\n".join(lines)


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="fault_suite", description=__doc__)
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of one schedule")
    parser.add_argument("--jobs", type=int, default=1, help="schedules at a time")
    parser.add_argument("--stack", choices=["embedded", "kafka"], help="only this one")
    parser.add_argument("--log", type=Path, help="an interaction log  [default: $KUAIRAND_LOG]")
    parser.add_argument("--json", type=Path, help="write results to this file")
    parser.add_argument("--keep", type=Path, help="keep the files of failed schedules in here")
    parser.add_argument("--mutants", action="store_true", help="the planted bugs instead")
    options = parser.parse_args()
    named = os.environ.get("KUAIRAND_LOG")
    log = options.log or (Path(named) if named else None)
    if log is None:
        print("no --log and no KUAIRAND_LOG: interaction logs are made from the simulator")
    if options.mutants:
        raise SystemExit(_judge_mutants(log, options.jobs))
    # What a number stands for does not depend on how many are run.
    numbers = range(options.schedules) if options.only is None else [options.only]
    every = [schedule(options.seed, number, stacks()) for number in numbers]
    if options.stack:
        every = [replace(one, stack=options.stack) for one in every]
    results = run_all(
        every, jobs=options.jobs, log=log and log.absolute(), keep=options.keep, told=_told
    )
    print(told_summary(results))
    if options.json:
        plain = [
            {"schedule": r.schedule.to_json(), "failures": r.failures, "injected": r.injected,
             "recovered": r.recovered, "notes": r.notes, "seconds": r.seconds}
            for r in results
        ]  # fmt: skip
        options.json.write_text(json.dumps({**summary(results), "results": plain}, indent=1))
    raise SystemExit(1 if any(result.failures for result in results) else 0)


def _judge_mutants(log: Path | None, jobs: int) -> int:
    """Whether a schedule has caught each planted bug, and how it was named."""
    results = run_all(MUTANTS, jobs=jobs, log=log, told=lambda line: None)
    for result in results:
        caught = "caught" if result.failures else "NOT CAUGHT"
        print(f"{result.schedule.mutant}: {caught} by {result.schedule}")
        for failure in result.failures[:3]:
            print(f"    {failure}")
    return 1 if any(not result.failures for result in results) else 0


def _told(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
