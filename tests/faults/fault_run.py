"""One lock-step schedule: servers, a run of real workers, the faults, and then the judge."""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from fault_anew import LifeOverError, begin_anew
from fault_app import app, live
from fault_compaction import seed_compacted
from fault_drive import Clock, PatientClient, PatientStore, WatchedOutbox
from fault_field import Field
from fault_injectors import BEFORE_START, INJECTORS
from fault_judge import Verdict, judge
from fault_live import drive_live
from fault_schedule import Schedule
from fault_servers import Servers
from fault_sources import interaction_log, world

from tenuto.drive import workers
from tenuto.drive.driver import Counts
from tenuto.drive.run import Run, RunOptions, Training, run_settings
from tenuto.drive.simulation import Simulation
from tenuto.platform import Platform
from tenuto.settings import Settings, environment, load
from tenuto.streams.topics import Topics as TopicAdmin

WAIT_S = 120.0
# A process manager starts a worker again for as long as it takes; a schedule has its own limit.
workers._MAX_QUICK_CRASHES = 1_000


@dataclass
class Outcome:
    """What came of a schedule.

    Attributes:
        failures: what is wrong, in words; empty where everything held.
        injected: faults done, by kind; ``recovered`` seconds of each recovery.
        notes: what else is worth telling.
    """

    failures: list[str] = field(default_factory=list)
    injected: dict[str, int] = field(default_factory=dict)
    recovered: list[float] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def settings_of(schedule: Schedule, servers: Servers) -> Settings:
    """Settings of a schedule's run."""
    module = "fault_mutants" if schedule.mutant else "fault_app"
    live = schedule.mode == "live"
    lateness = "1m"
    if live:
        # A broker away is away for some seconds: for less than one lateness, for more than another.
        away = [fault.seconds for fault in schedule.faults if fault.kind == "broker away"]
        lateness = "15s" if away and away[0] < 1 else "2s"
    found = load(env={
        "TENUTO_APP": f"{module}:{'live' if schedule.mode == 'live' else 'app'}",
        "TENUTO_KAFKA__BOOTSTRAP": servers.bootstrap,
        "TENUTO_REDIS__URL": servers.redis_url,
        "TENUTO_REDIS__BUCKETS": str(schedule.buckets),
        "TENUTO_TIME__LATENESS": lateness,
        "TENUTO_TIME__SNAPSHOT_LATENESS": lateness,
        "TENUTO_SINK__SNAPSHOTS_PER_FILE": "40",
        "TENUTO_TRAINER__CHECKPOINT_EVERY": "2m",
        "TENUTO_TRAINER__BATCH_ROWS": "64",
        "TENUTO_TRAINER__KEEP": "1000",
    }).settings  # fmt: skip
    namespace = f"f{schedule.seed}-{schedule.id}-{os.getpid()}"
    own = run_settings(found, namespace=namespace, partitions=schedule.partitions)
    workers = msgspec.structs.replace(own.workers, live=live)
    return msgspec.structs.replace(own, workers=workers)


def tell_workers(schedule: Schedule, folder: Path) -> None:
    """Write what workers are to do to themselves."""
    inside: dict[str, dict[str, Any]] = {
        "features": {"entities_per_chunk": schedule.entities_per_chunk},
        "join": {"overlap": schedule.overlap} if schedule.overlap else {},
        "sink": {},
        "train": {},
    }
    for fault in schedule.faults:
        if fault.kind == "die at file":
            inside[fault.target]["die_at"] = fault.number
        elif fault.kind == "disk full":
            inside[fault.target]["full"] = [fault.number, fault.number + 1]
        elif fault.kind == "clock":
            inside[fault.target]["clock_s"] = fault.seconds
    folder.mkdir(parents=True)
    for kind, told in inside.items():
        if told:
            (folder / f"{kind}.json").write_text(json.dumps(told))


def environ_of(schedule: Schedule, folder: Path) -> None:
    """What this process and its workers find in their environment."""
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    os.environ["FAULTS_DIR"] = str(folder / "inside")
    os.environ["FAULTS_FILES"] = str(folder)
    os.environ["FAULTS_MUTANT"] = schedule.mutant


def run_schedule(
    schedule: Schedule, folder: Path, *, broker: str = "", log: Path | None = None
) -> Outcome:
    """Run a schedule and judge it.

    Args:
        schedule: what to do.
        folder: empty; everything goes there.
        broker: a running Apache Kafka for schedules that do not hurt it.
        log: an interaction log, for schedules that take one.
    """
    started = time.monotonic()
    outcome = Outcome()
    environ_of(schedule, folder)
    tell_workers(schedule, folder / "inside")
    kinds = {fault.kind for fault in schedule.faults}
    own = bool(kinds & {"broker killed", "broker cut", "broker anew", "compacted", "broker away"})
    proxied = {k.split()[0] for k in kinds & {"redis cut", "redis slow", "broker cut"}}
    with Servers(
        schedule.stack,
        folder / "servers",
        shared_broker="" if own or schedule.stack == "embedded" else broker,
        persist=schedule.persist,
        proxied=proxied,
    ) as servers:
        settings = settings_of(schedule, servers)
        platform = live if schedule.mode == "live" else app
        drive = _drive_live if schedule.mode == "live" else _drive
        if "compacted" in kinds and schedule.stack == "kafka":
            seed_compacted(settings, platform)
            outcome.injected["compacted"] = 1
        training = Training("live" if schedule.source == "simulator" else "as_of",
                            folder / "checkpoints") if schedule.trains else None  # fmt: skip
        options = RunOptions(
            settings,
            platform,
            folder / "samples",
            folder / "work",
            schedule.freshness,
            start_stack=None,
            training=training,
        )
        try:
            try:
                field_ = drive(schedule, options, servers, folder, log, outcome)
            except LifeOverError as over:
                # Everything once more, on topics that are there anew.
                outcome.injected["broker anew"] = 1
                outcome.failures += over.complaints
                begin_anew(settings, environment(settings))
                options = replace(options, out_dir=folder / "samples2")
                schedule = replace(schedule, faults=[])
                field_ = drive(schedule, options, servers, folder, log, outcome)
            verdict = judge(settings, platform, options, servers)
            _conclude(outcome, field_, verdict)
        except Exception as error:
            outcome.failures.append(f"{type(error).__name__}: {error}")
            raise_or_keep(error)
        finally:
            if broker and not own:
                _forget(settings, platform)
    outcome.seconds = round(time.monotonic() - started, 1)
    return outcome


def raise_or_keep(error: Exception) -> None:
    """Where FAULTS_RAISE is set, an error ends the process with its traceback."""
    if os.environ.get("FAULTS_RAISE"):
        raise error


def _drive(
    schedule: Schedule,
    options: RunOptions,
    servers: Servers,
    folder: Path,
    log: Path | None,
    outcome: Outcome,
) -> Field:
    simulator = world(schedule.seed * 1_000 + schedule.id)
    source: Any = simulator
    if schedule.source == "log":
        source, outcome.notes["log"] = interaction_log(
            options.platform, log, folder, schedule.seed * 1_000 + schedule.id
        )
    with Run(options) as run:
        start_ms = simulator.preroll.start_ms if source is simulator else source.start_ms
        clock = Clock(start_ms, source.end_ms, now_ms=start_ms)
        outbox = WatchedOutbox(run.outbox, clock)
        field_ = Field(schedule, servers, run, run.store, outbox, clock, folder)
        _arrange(field_)
        clock.on_point = field_.reach
        loose = random.Random(f"loose {schedule.seed}/{schedule.id}")
        store = PatientStore(
            run.store,
            clock,
            lambda: clock.now_ms < clock.end_ms and loose.random() < schedule.loose,
        )
        # What the driver is given stands between it and the servers.
        run.outbox, run.store = outbox, store  # type: ignore[assignment]
        run.client = PatientClient(run.client, field_.whole)  # type: ignore[assignment]
        for kind, count in schedule.workers.items():
            for _ in range(count - 1):
                field_.start_another(kind)

        def after(counts: Counts) -> None:
            clock.now_ms = max(clock.now_ms, counts.event_time_ms)
            store.first = True
            field_.features_are_there()
            clock.tell("boundary")

        if source is simulator:
            drive = Simulation(run, simulator, 0.0, None, run.live_ranker(), after)
            drive.counts = drive.drive()
            counts = drive.counts
        else:
            counts = run.driver(source).run(after)
        clock.now_ms = clock.end_ms
        field_.features_are_there()
        field_.later.finish()
        run.wait_for_samples(WAIT_S)
        if options.training is not None:
            outcome.notes["trained"] = run.wait_for_training(WAIT_S)["trained_rows"]
        outcome.notes |= {
            "requests": counts.requests,
            "rows": counts.rows,
            "restarts": {k: n for k, n in run.workers.all_restarts().items() if n},
        }
    return field_


def _drive_live(
    schedule: Schedule,
    options: RunOptions,
    servers: Servers,
    folder: Path,
    log: Path | None,
    outcome: Outcome,
) -> Field:
    field_, notes = drive_live(schedule, options, servers, folder, _arrange)
    outcome.notes |= notes
    return field_


def _arrange(field_: Field) -> None:
    """Have every fault done when its point comes."""
    for fault in field_.schedule.faults:
        if fault.kind in BEFORE_START:
            continue

        def inject(fault: Any = fault) -> None:
            field_.injected[fault.kind] = field_.injected.get(fault.kind, 0) + 1
            INJECTORS[fault.kind](field_, fault)

        field_.at(fault.when, fault.at, inject)


def _conclude(outcome: Outcome, field_: Field, verdict: Verdict) -> None:
    outcome.failures += [*field_.complaints, *verdict.failures]
    outcome.injected |= field_.injected
    for kind, word in (("die at file", "died"), ("disk full", "full")):
        if any((field_.folder / "inside").glob(f"*.{word}")):
            outcome.injected[kind] = 1
    outcome.recovered += [round(seconds, 3) for seconds in field_.recovered]
    outcome.notes |= verdict.notes
    if field_.undone:
        outcome.notes["not reached"] = field_.undone


def _forget(settings: Settings, platform: Platform) -> None:
    """Delete a namespace's topics from a broker that goes on."""
    from tenuto.topic_plan import topic_plan

    with TopicAdmin(settings.kafka) as admin:
        admin.delete(topic_plan(settings, platform))


def main() -> None:
    """``fault_run.py SCHEDULE FOLDER OUT [BROKER] [LOG]``: run it and write what came of it."""
    import logging
    import sys

    schedule_text, folder, out, broker, log = sys.argv[1:6]
    logging.basicConfig(level=logging.WARNING)
    schedule = Schedule.from_json(json.loads(schedule_text))
    outcome = run_schedule(schedule, Path(folder), broker=broker, log=Path(log) if log else None)
    Path(out).write_bytes(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
