"""A log through the real components, against a plain count, and through crashes."""

from __future__ import annotations

import csv
import hashlib
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from plain_count import expected_rows

from tenuto import local
from tenuto.drive.driver import Counts
from tenuto.drive.interactions import InteractionLog, read_log
from tenuto.drive.replay import replay
from tenuto.drive.run import Run, RunOptions, run_settings
from tenuto.presets import video
from tenuto.settings import load
from tenuto.snapshot.dataset import Samples

START_MS = 1_700_000_000_000
LABELS = (
    "impressed", "clicked", "click_delay_ms", "played", "play_ms", "duration_ms", "liked",
    "converted",
)  # fmt: skip


def write_log(path: Path, requests: int, seed: int) -> None:
    """A log with everything that is awkward: late labels, repeats, missing positions, plays."""
    rnd = random.Random(seed)
    names = [
        "request_id", "user_id", "query", "item_id", "position", "request_ts_ms",
        "impression_ts_ms", "click_ts_ms", "play_ts_ms", "play_ms", "duration_ms", "like_ts_ms",
    ]  # fmt: skip
    ts = START_MS
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, names)
        rows.writeheader()
        for number in range(requests):
            ts += rnd.choice([50, 3_000, 20_000, 400_000])
            base = {
                "request_id": f"r{number}",
                "user_id": f"u{rnd.randrange(5)}",
                "query": f"q{rnd.randrange(3)}" if rnd.random() < 0.7 else "",
                "request_ts_ms": ts,
            }
            for position in range(rnd.randrange(1, 5)):
                row = base | {"item_id": f"i{rnd.randrange(6)}", "position": position}
                if rnd.random() < 0.8:
                    row["impression_ts_ms"] = ts + rnd.choice([100, 2_000, 300_000, 700_000])
                if rnd.random() < 0.4:
                    row["click_ts_ms"] = ts + rnd.choice([50, 4_000, 590_000, 610_000, 1_300_000])
                if rnd.random() < 0.3:
                    row["play_ts_ms"] = ts + rnd.choice([10, 5_000, 600_000])
                    row["play_ms"] = rnd.choice([0, 900, 40_000, 200_000])
                    row["duration_ms"] = rnd.choice([0, 60_000])
                if rnd.random() < 0.1:
                    row["like_ts_ms"] = ts + rnd.choice([7_000, 1_700_000, 2_500_000])
                rows.writerow(row)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> InteractionLog:
    path = tmp_path_factory.mktemp("log") / "log.csv"
    write_log(path, 150, seed=4)
    return read_log(path, video.events)


Chaos = Callable[[Run, Counts], None]


def run(
    log: InteractionLog, stack: local.LocalStack, out: Path, chaos: Chaos = lambda run, counts: None
) -> dict[str, Any]:
    settings = load(env={
        "TENUTO_KAFKA__BOOTSTRAP": stack.bootstrap,
        "TENUTO_REDIS__URL": stack.redis_url,
    }).settings  # fmt: skip
    namespace = "t" + hashlib.sha256(str(out).encode()).hexdigest()[:8]
    own = run_settings(settings, namespace=namespace, partitions=2)
    return replay(
        log, RunOptions(own, video.app, out, out.parent / "work", start_stack=None), chaos
    )


def files(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*.parquet"))
    }


@pytest.fixture(scope="module")
def undisturbed(
    log: InteractionLog, embedded: local.LocalStack, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "samples"
    run(log, embedded, out)
    return out


def wrong(log: InteractionLog, table: pa.Table) -> list[Any]:
    features = video.app.feature_set()
    expected = expected_rows(log, features)
    found = []
    columns = {name: table.column(name) for name in LABELS}
    values = {f.name: table.column(f.name).to_numpy().view(np.uint32) for f in features.features}
    ids, indices = table.column("request_id").to_pylist(), table.column("item_index").to_pylist()
    assert sorted(zip(ids, indices, strict=True)) == sorted(expected)
    for at, key in enumerate(zip(ids, indices, strict=True)):
        for name, want in expected[key].items():
            got = columns[name][at].as_py() if name in columns else int(values[name][at])
            if got != want:
                found.append((key, name, got, want))
    return found


def test_every_row_agrees_with_a_plain_count_of_the_log(
    log: InteractionLog, undisturbed: Path
) -> None:
    assert wrong(log, Samples(undisturbed).table()) == []


def test_every_row_agrees_on_apache_kafka_too(
    log: InteractionLog, kafka: local.LocalStack, tmp_path: Path, undisturbed: Path
) -> None:
    figures = run(log, kafka, tmp_path / "samples")
    assert figures["dead_letters"] == 0
    assert files(tmp_path / "samples") == files(undisturbed)


def test_the_same_log_twice_gives_the_same_files(
    log: InteractionLog, embedded: local.LocalStack, tmp_path: Path, undisturbed: Path
) -> None:
    run(log, embedded, tmp_path / "samples")
    assert files(tmp_path / "samples") == files(undisturbed)


def test_killed_workers_change_no_row(
    log: InteractionLog, embedded: local.LocalStack, tmp_path: Path, undisturbed: Path
) -> None:
    def kill(run: Run, counts: Counts) -> None:
        victims = {30: "features", 60: "join-default", 75: "sink-default", 90: "features"}
        if counts.boundaries in victims:
            run.workers.kill(victims[counts.boundaries])

    figures = run(log, embedded, tmp_path / "samples", kill)
    assert figures["restarts"] == {"features": 2, "join-default": 1, "sink-default": 1}
    assert files(tmp_path / "samples") == files(undisturbed)


def test_a_redis_emptied_in_the_middle_is_rebuilt_and_changes_no_later_row(
    log: InteractionLog, embedded: local.LocalStack, tmp_path: Path, undisturbed: Path
) -> None:
    def empty(run: Run, counts: Counts) -> None:
        if counts.boundaries == 50:
            run.redis.flushall()

    run(log, embedded, tmp_path / "samples", empty)
    assert files(tmp_path / "samples") == files(undisturbed)


def test_a_redis_that_comes_back_with_older_data_catches_up_and_changes_no_row(
    log: InteractionLog, embedded: local.LocalStack, tmp_path: Path, undisturbed: Path
) -> None:
    kept: dict[bytes, bytes] = {}

    def restore_older(run: Run, counts: Counts) -> None:
        if counts.boundaries == 40:
            kept.update((key, run.redis.dump(key)) for key in run.redis.scan_iter())
        if counts.boundaries == 80:
            run.redis.flushall()
            for key, value in kept.items():
                run.redis.restore(key, 0, value)

    run(log, embedded, tmp_path / "samples", restore_older)
    assert kept
    assert files(tmp_path / "samples") == files(undisturbed)


def test_workers_that_are_frozen_and_revived_late_change_no_row(
    log: InteractionLog, kafka: local.LocalStack, tmp_path: Path, undisturbed: Path
) -> None:
    frozen: list[int] = []

    def freeze(run: Run, counts: Counts) -> None:
        if counts.boundaries == 40:
            for name, arguments in (
                ("features", ["worker", "features"]),
                ("join-default", ["worker", "join"]),
            ):
                frozen.append(run.workers.pid(name))
                os.kill(frozen[-1], signal.SIGSTOP)
                # Another one takes over when the group has given the frozen one up.
                run.workers.start(f"{name}-2", arguments, {"TENUTO_WORKERS__INSTANCE": "second"})
        if counts.boundaries == 80:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)

    run(log, kafka, tmp_path / "samples", freeze)
    assert files(tmp_path / "samples") == files(undisturbed)
