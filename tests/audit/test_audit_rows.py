"""Rows and labels: each planted fault is found and named, and a healthy log is clean."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recorded_run import Recorded, change, change_rows, found, rows_of, set_value

from tenuto.snapshot.audit.findings import Findings
from tenuto.snapshot.audit.label_leaks import TWINS, Twins
from tenuto.snapshot.audit.log import RawRecord, RecordedLog

CHECKS = ("counts", "files", "labels", "rows", "snapshots")


def without(*numbers: int) -> Callable[[list[RawRecord]], list[RawRecord]]:
    return lambda records: [r for at, r in enumerate(records) if at not in numbers]


def first_row_where(log: RecordedLog, accept: Callable[[dict[str, Any]], bool]) -> Any:
    """Partition, number of the record among those with rows, row in it, and the row."""
    for partition, part in enumerate(log.topics["samples"].partitions):
        filled = [record for record in part.records if record.value]
        for number, record in enumerate(filled):
            for at, row in enumerate(rows_of(record).to_pylist()):
                if accept(row):
                    return partition, number, at, row
    raise AssertionError("no such row")


def place(row: dict[str, Any]) -> str:
    return (
        f"snapshots[{row['snapshot_partition']}]@{row['snapshot_offset']} item {row['item_index']}"
    )


def test_a_healthy_log_is_clean_and_everything_in_it_was_compared(recorded: Recorded) -> None:
    findings = recorded.audit(files={"default": recorded.files}, strict=True)
    assert findings.clean, findings.table()
    assert findings.snapshots == findings.checked["snapshots"] == 120
    assert findings.checked["rows"] == findings.checked["labels"] == findings.checked["files"]
    assert findings.checked["rows"] > 200
    assert findings.checked[TWINS] > 100
    assert not findings.waiting
    assert not findings.unverifiable


def test_a_running_system_is_clean_whenever_it_is_looked_at(recorded: Recorded) -> None:
    seen = [recorded.audit(log) for log in recorded.meanwhile]
    assert [findings.table() for findings in seen if not findings.clean] == []
    assert any(findings.checked["snapshots"] for findings in seen)
    assert any(findings.waiting["snapshots"] for findings in seen)


def test_a_bit_of_a_feature_is_found_with_its_column_and_both_values(recorded: Recorded) -> None:
    partition, number, at, row = first_row_where(recorded.log, lambda r: r["item_ctr_1h"] > 0)
    bits = pa.array([row["item_ctr_1h"]], pa.float32()).to_numpy().copy()
    bits.view("uint32")[0] ^= 1
    log = change_rows(
        recorded.log, partition, number, lambda t: set_value(t, at, item_ctr_1h=float(bits[0]))
    )
    text = found(recorded.audit(log), "mismatching", "rows")
    assert place(row) in text
    assert "item_ctr_1h: expected" in text
    assert f"{float(bits[0])!r}" in text


@pytest.mark.parametrize(
    "values",
    [{"query": "other"}, {"item_impressions_1h__state": 9}, {"position": None}, {"weight": 2.0}],
    ids=lambda values: next(iter(values)),
)
def test_any_other_column_that_differs_is_named(recorded: Recorded, values: dict[str, Any]) -> None:
    log = change_rows(recorded.log, 0, 0, lambda table: set_value(table, 0, **values))
    findings = recorded.audit(log)
    assert f"{next(iter(values))}: expected" in found(findings, "mismatching", "rows")
    assert findings.found["rows", "mismatching"] == 1


def test_a_column_of_another_definition_is_found(recorded: Recorded) -> None:
    def redefine(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("item_ctr_1h")
        changed = table.schema.field(at).with_metadata({"tenuto.hash": "0" * 16})
        return table.set_column(at, changed, table.column(at))

    text = found(recorded.audit(change_rows(recorded.log, 0, 0, redefine)), "mismatching", "rows")
    assert "item_ctr_1h" in text
    assert "0" * 16 in text


def test_a_flipped_label_is_found(recorded: Recorded) -> None:
    partition, number, at, row = first_row_where(recorded.log, lambda r: r["clicked"] == 1)
    log = change_rows(recorded.log, partition, number, lambda t: set_value(t, at, clicked=0))
    text = found(recorded.audit(log), "mismatching", "labels")
    assert f"{place(row)}: clicked: expected 1, found 0" in text


def test_a_label_that_the_log_does_not_have_is_found(recorded: Recorded) -> None:
    partition, _, _, row = first_row_where(recorded.log, lambda r: r["liked"] == 1)

    def lose(records: list[RawRecord]) -> list[RawRecord]:
        return [record for record in records if record.key != row["request_id"].encode()]

    text = found(
        recorded.audit(change(recorded.log, "likes", partition, lose)), "mismatching", "labels"
    )
    assert f"{place(row)}: liked: expected 0, found 1" in text


def test_a_label_past_its_window_is_a_leak_that_names_its_event(recorded: Recorded) -> None:
    late = {}
    for part in recorded.log.topics["clicks"].partitions:
        for record in part.records:
            if record.value and record.key:
                fields = json.loads(record.value)
                late[fields["request_id"], fields["item_id"], fields["position"]] = fields["ts"]

    def after_window(row: dict[str, Any]) -> bool:
        ts = late.get((row["request_id"], row["item_id"], row["position"]), 0)
        delay = row["impression_delay_ms"]
        return delay is not None and ts - row["request_ts_ms"] - delay > 600_000

    partition, number, at, row = first_row_where(recorded.log, after_window)
    delay = late[row["request_id"], row["item_id"], row["position"]]
    delay -= row["request_ts_ms"] + row["impression_delay_ms"]
    log = change_rows(
        recorded.log, partition, number,
        lambda t: set_value(t, at, clicked=1, click_delay_ms=delay),
    )  # fmt: skip
    text = found(recorded.audit(log), "leaking", "labels")
    assert f"{place(row)}: clicked: counts clicks[{partition}]@" in text
    assert f"{delay:,} ms after the impression: its window is 600,000 ms" in text


def test_an_impression_past_its_window_is_a_leak_too(recorded: Recorded) -> None:
    events = [
        json.loads(record.value)
        for part in recorded.log.topics["impressions"].partitions
        for record in part.records
        if record.value
    ]
    late = {(e["request_id"], e["item_id"], e["position"]): e["ts"] for e in events}

    def unseen(row: dict[str, Any]) -> bool:
        key = row["request_id"], row["item_id"], row["position"]
        return row["impressed"] == 0 and late.get(key, 0) - row["request_ts_ms"] == 700_000

    partition, number, at, row = first_row_where(recorded.log, unseen)
    log = change_rows(
        recorded.log, partition, number,
        lambda t: set_value(t, at, impressed=1, impression_delay_ms=700_000),
    )  # fmt: skip
    text = found(recorded.audit(log), "leaking", "labels")
    assert f"{place(row)}: impression: counts impressions[{partition}]@" in text


def test_a_lost_row_is_found(recorded: Recorded) -> None:
    log = change_rows(recorded.log, 0, 0, lambda table: table.slice(1))
    findings = recorded.audit(log)
    assert findings.found["rows", "missing"] == 1
    assert "item 0" in found(findings, "missing", "rows")


def test_a_row_twice_in_a_record_is_found(recorded: Recorded) -> None:
    def double(table: pa.Table) -> pa.Table:
        return pa.concat_tables([table.slice(0, 1), table])

    findings = recorded.audit(change_rows(recorded.log, 0, 0, double))
    assert findings.found["rows", "extra"] == 1
    assert "is 2 times in samples" in found(findings, "extra", "rows")


def test_a_lost_snapshot_leaves_rows_that_nothing_accounts_for(recorded: Recorded) -> None:
    def lose_first(records: list[RawRecord]) -> list[RawRecord]:
        return without(next(at for at, record in enumerate(records) if record.key))(records)

    findings = recorded.audit(change(recorded.log, "snapshots", 0, lose_first))
    assert "no such snapshot counts" in found(findings, "extra", "rows")


def test_what_a_zombie_repeats_is_no_row_twice(recorded: Recorded) -> None:
    def repeat(records: list[RawRecord]) -> list[RawRecord]:
        filled = [record for record in records if record.value]
        end = records[-1].offset
        again = [replace(r, offset=end + 1 + at) for at, r in enumerate(filled[:2])]
        return [*records[:-1], *again, replace(records[-1], offset=end + 9)]

    findings = recorded.audit(change(recorded.log, "samples", 0, repeat))
    assert findings.clean, findings.table()


def test_what_was_written_to_an_earlier_topic_of_the_name_is_no_row(recorded: Recorded) -> None:
    def foreign(records: list[RawRecord]) -> list[RawRecord]:
        first = next(record for record in records if record.value)
        headers = (
            ("from", b"0"),
            ("to", b"9999"),
            ("arrival", b"0"),
            ("life", b"another life....."),
        )
        return [replace(first, headers=headers), *records]

    findings = recorded.audit(change(recorded.log, "samples", 0, foreign))
    assert findings.clean, findings.table()


def test_a_lost_samples_record_loses_all_that_follows_it(recorded: Recorded) -> None:
    log = recorded.log
    filled = [i for i, r in enumerate(log.topics["samples"].partitions[0].records) if r.value]
    findings = recorded.audit(change(log, "samples", 0, without(filled[1])))
    assert "is final, and samples ends before it" in found(findings, "missing", "snapshots")
    assert "are sampled" in found(findings, "mismatching", "counts")


def test_what_is_not_final_yet_waits_and_is_missing_only_where_nothing_may_wait(
    recorded: Recorded,
) -> None:
    log = recorded.log
    for partition in (0, 1):
        filled = [
            i for i, r in enumerate(log.topics["samples"].partitions[partition].records) if r.value
        ]
        log = change(log, "samples", partition, lambda records, n=filled[-1]: records[:n])
        log = change(log, "snapshots", partition, lambda records: records[:-1])
    findings = recorded.audit(log)
    assert findings.clean, findings.table()
    assert findings.waiting["snapshots"] > 0
    strict = recorded.audit(log, strict=True)
    assert strict.found["snapshots", "missing"] == findings.waiting["snapshots"]


def test_a_row_before_it_was_final_is_found(recorded: Recorded) -> None:
    def stop_early(records: list[RawRecord]) -> list[RawRecord]:
        return records[: len(records) // 2]

    findings = recorded.audit(change(recorded.log, "likes", 0, stop_early))
    text = found(findings, "mismatching", "snapshots")
    assert "is in samples before it was final: likes[0] is read to arrival" in text


def test_labels_that_retention_took_are_no_finding(recorded: Recorded) -> None:
    log = recorded.log
    for topic in ("impressions", "clicks", "plays", "likes"):
        known = log.topics[topic]
        parts = []
        for part in known.partitions:
            kept = part.records[len(part.records) // 2 :]
            parts.append(replace(part, start=kept[0].offset, records=kept))
        log = replace(log, topics={**log.topics, topic: replace(known, partitions=parts)})
    findings = recorded.audit(log)
    assert not found(findings, "mismatching", "labels")
    assert findings.unverifiable["labels"] > 50
    assert findings.checked["labels"] > 50


def columns_of(values: list[float]) -> dict[str, Any]:
    packed = pa.array(values, pa.float32()).to_numpy().tobytes()
    names = [f"c{number}" for number in range(len(values))]
    return {"columns": [(name, "") for name in names], "values": packed, "context": {}}


def twins(rows: int, column: Callable[[int], float], context: Any = None) -> str:
    findings, twins = Findings(), Twins(["impressed", "clicked", "play_ms"])
    for row in range(rows):
        labels = {"impressed": 1, "clicked": row % 2, "play_ms": row if row % 2 else None}
        fields = columns_of([0.5, column(row)])
        if context is not None:
            fields["context"] = {"given": context(row)}
        twins.add(fields, 0, labels)
    twins.report(findings)
    return found(findings, "leaking", TWINS)


def test_a_label_among_the_features_is_a_leak() -> None:
    assert "column 'c1': equals the label 'clicked'" in twins(60, lambda row: float(row % 2))
    assert "equals the label 'play_ms'" in twins(60, lambda row: row if row % 2 else float("nan"))


def test_a_label_among_the_context_is_a_leak() -> None:
    text = twins(60, lambda row: 0.25, context=lambda row: [row % 2, 7])
    assert "column 'context given': equals the label 'clicked'" in text


def test_a_column_that_differs_once_or_has_too_few_rows_is_none() -> None:
    assert twins(60, lambda row: float(row % 2) if row != 33 else 0.0) == ""
    assert twins(40, lambda row: float(row % 2)) == ""


@pytest.fixture
def files(recorded: Recorded, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded.files, tmp_path / "samples"))


def first_manifest(directory: Path) -> tuple[Path, dict[str, Any]]:
    for path in sorted(directory.glob("_manifests/p*/*.json")):
        manifest = json.loads(path.read_bytes())
        if manifest["files"]:
            return path, manifest
    raise AssertionError("no files")


def test_a_missing_file_is_found_and_so_are_its_rows(recorded: Recorded, files: Path) -> None:
    _, manifest = first_manifest(files)
    path = files / manifest["files"][0]["path"]
    path.unlink()
    findings = recorded.audit(files={"default": files})
    assert str(path) in found(findings, "missing", "files")
    assert findings.found["files", "missing"] > manifest["files"][0]["rows"] > 1


def test_a_changed_file_is_found_by_its_hash(recorded: Recorded, files: Path) -> None:
    _, manifest = first_manifest(files)
    path = files / manifest["files"][0]["path"]
    pq.write_table(pq.read_table(path, partitioning=None), path)
    assert "its manifest says" in found(
        recorded.audit(files={"default": files}), "mismatching", "files"
    )


def rewrite(files: Path, how: Callable[[pa.Table], pa.Table]) -> None:
    """Change a file so that its manifest still fits."""
    at, manifest = first_manifest(files)
    path = files / manifest["files"][0]["path"]
    table = how(pq.read_table(path, partitioning=None))
    pq.write_table(table, path)
    told = manifest["files"][0]
    told["rows"], told["bytes"] = table.num_rows, path.stat().st_size
    told["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    at.write_text(json.dumps(manifest))


def test_a_row_of_the_files_that_differs_from_the_topics_is_found(
    recorded: Recorded, files: Path
) -> None:
    rewrite(files, lambda table: set_value(table, 0, clicked=7))
    findings = recorded.audit(files={"default": files})
    assert "clicked: expected" in found(findings, "mismatching", "files")
    assert findings.found["files", "mismatching"] == 1


def test_a_row_twice_and_a_row_lost_in_the_files_are_found(recorded: Recorded, files: Path) -> None:
    rewrite(
        files,
        lambda table: pa.concat_tables([table.slice(0, 1), table.slice(0, 1), table.slice(2)]),
    )
    findings = recorded.audit(files={"default": files})
    assert findings.found["files", "extra"] == 1
    assert findings.found["files", "missing"] == 1


def test_a_missing_manifest_is_found(recorded: Recorded, files: Path) -> None:
    paths = sorted(files.glob("_manifests/p0/*.json"))
    assert len(paths) > 2
    paths[1].unlink()
    assert "is not there" in found(recorded.audit(files={"default": files}), "missing", "files")


def test_files_that_are_not_finished_wait(recorded: Recorded, files: Path) -> None:
    for folder in files.glob("_manifests/p*"):
        # The last one may be of the end mark alone.
        for path in sorted(folder.glob("*.json"))[-2:]:
            path.unlink()
    findings = recorded.audit(files={"default": files})
    assert findings.clean, findings.table()
    assert findings.waiting["files"] > 0
    strict = recorded.audit(files={"default": files}, strict=True)
    assert strict.found["files", "missing"] == findings.waiting["files"]


def test_every_check_counts_what_it_compared(recorded: Recorded) -> None:
    findings = recorded.audit(files={"default": recorded.files})
    assert all(findings.checked[check] for check in CHECKS)
