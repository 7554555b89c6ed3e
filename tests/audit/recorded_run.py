"""A small replay on real components, recorded at its end and while it ran, to be tampered with.

Its log has what is awkward: labels past their windows, items shown twice, plays in reports, and
records of every topic that do not count.
"""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tenuto import local
from tenuto.audit import audit_log, record_log
from tenuto.drive.driver import Counts
from tenuto.drive.interactions import read_log
from tenuto.drive.replay import replay
from tenuto.drive.run import Run, RunOptions, run_settings
from tenuto.presets import video
from tenuto.settings import Settings, load
from tenuto.snapshot.audit.findings import Findings, Kind
from tenuto.snapshot.audit.log import RawRecord, RecordedLog

START_MS = 1_700_000_000_000
PARTITIONS = 2
REFUSED = {
    "clicks": b"{",
    "plays": b'{"request_id": "r1"}',
    "likes": b"[]",
    "snapshots": b"\x93",
}
NAMES = [
    "request_id", "user_id", "query", "item_id", "position", "request_ts_ms", "impression_ts_ms",
    "click_ts_ms", "play_ts_ms", "play_ms", "duration_ms", "like_ts_ms",
]  # fmt: skip


@dataclass(frozen=True)
class Recorded:
    """What a run left, and logs that were recorded while it ran."""

    log: RecordedLog
    files: Path
    settings: Settings
    meanwhile: list[RecordedLog] = field(default_factory=list)

    def audit(self, log: RecordedLog | None = None, **options: Any) -> Findings:
        """The findings in the log, or in a tampered one."""
        return audit_log(video.app, self.settings, log or self.log, **options)


def record_run(
    stack: local.LocalStack,
    folder: Path,
    requests: int = 120,
    namespace: str = "a.udit",
    **more: str,
) -> Recorded:
    """Replay, and record; ``more`` is of the environment."""
    _write_log(folder / "log.csv", requests)
    env = {"TENUTO_KAFKA__BOOTSTRAP": stack.bootstrap, "TENUTO_REDIS__URL": stack.redis_url, **more}
    settings = run_settings(load(env=env).settings, namespace=namespace, partitions=PARTITIONS)
    options = RunOptions(
        settings, video.app, folder / "samples", folder / "work", start_stack=None,
        record=folder / "log",
    )  # fmt: skip
    meanwhile: list[RecordedLog] = []

    def disturb(run: Run, counts: Counts) -> None:
        if counts.boundaries in (10, 30):
            for topic, value in REFUSED.items():
                name = run.names.of(topic)
                run.outbox.send(name, value, partition=1, timestamp_ms=counts.event_time_ms)
            run.outbox.flush(10.0)
        if counts.boundaries in (25, 45):
            meanwhile.append(record_log(video.app, run.settings))
        if counts.boundaries == 60:
            meanwhile.append(_with_rows(run.settings))

    replay(read_log(folder / "log.csv", video.events), options, disturb)
    return Recorded(record_log(video.app, settings), folder / "samples", settings, meanwhile)


def _with_rows(settings: Settings) -> RecordedLog:
    """The log as soon as the joiner, whom the replay does not wait for, has written some rows."""
    give_up_s = time.monotonic() + 60.0
    while True:
        log = record_log(video.app, settings)
        samples = log.topics["samples"].partitions
        if any(record.value for partition in samples for record in partition.records):
            return log
        assert time.monotonic() < give_up_s, "no rows"
        time.sleep(0.1)


def found(findings: Findings, kind: Kind, check: str) -> str:
    """What was found of a kind by a check, as text; "" for nothing."""
    return "\n".join(
        f"{f.where}: {f.text}" for f in findings.shown if (f.kind, f.check) == (kind, check)
    )


Change = Callable[[list[RawRecord]], Sequence[RawRecord]]


def change(log: RecordedLog, topic: str, partition: int, how: Change) -> RecordedLog:
    """The log with other records in one partition."""
    known = log.topics[topic]
    parts = list(known.partitions)
    records = list(parts[partition].records)
    parts[partition] = replace(parts[partition], records=how(records))
    return replace(log, topics={**log.topics, topic: replace(known, partitions=parts)})


def change_rows(
    log: RecordedLog, partition: int, number: int, how: Callable[[pa.Table], pa.Table]
) -> RecordedLog:
    """The log with other rows in one record of ``samples``, the ``number``-th that has some."""

    def edit(records: list[RawRecord]) -> list[RawRecord]:
        at = [at for at, record in enumerate(records) if record.value][number]
        records[at] = replace(records[at], value=encoded(how(rows_of(records[at]))))
        return records

    return change(log, "samples", partition, edit)


def rows_of(record: RawRecord) -> pa.Table:
    """The rows of a samples record."""
    assert record.value
    with pa.ipc.open_stream(record.value) as reader:
        return reader.read_all()


def encoded(table: pa.Table) -> bytes:
    """A samples record's value."""
    sink = pa.BufferOutputStream()
    table = table.combine_chunks()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def set_value(table: pa.Table, row: int, **values: Any) -> pa.Table:
    """The rows with other values in one of them."""
    for name, value in values.items():
        at = table.schema.get_field_index(name)
        column = table.column(name).to_pylist()
        column[row] = value
        declared = table.schema.field(at)
        table = table.set_column(at, declared, pa.array(column, declared.type))
    return table


def _write_log(path: Path, requests: int) -> None:
    rnd = random.Random(5)
    ts = START_MS
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, NAMES)
        rows.writeheader()
        for number in range(requests):
            ts += rnd.choice([50, 3_000, 20_000, 400_000])
            base = {
                "request_id": f"r{number}",
                "user_id": f"u{rnd.randrange(5)}",
                "query": f"q{rnd.randrange(3)}",
                "request_ts_ms": ts,
            }
            for position in range(rnd.randrange(1, 5)):
                row = base | {"item_id": f"i{rnd.randrange(4)}", "position": position}
                if rnd.random() < 0.8:
                    row["impression_ts_ms"] = ts + rnd.choice([100, 2_000, 300_000, 700_000])
                if rnd.random() < 0.4:
                    row["click_ts_ms"] = ts + rnd.choice([4_000, 590_000, 610_000, 1_300_000])
                if rnd.random() < 0.3:
                    row["play_ts_ms"] = ts + rnd.choice([10, 5_000, 600_000])
                    row["play_ms"] = rnd.choice([0, 900, 40_000, 200_000])
                    row["duration_ms"] = rnd.choice([0, 60_000])
                if rnd.random() < 0.2:
                    row["like_ts_ms"] = ts + rnd.choice([7_000, 1_700_000, 2_500_000])
                rows.writerow(row)
