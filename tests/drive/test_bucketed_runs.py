"""Whole runs with the state in several buckets, on one Redis and on a cluster of three nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from recorded_run import Recorded, change, record_run
from redis_cluster import RedisCluster

from tenuto import local
from tenuto.audit import AuditError, audit_log, read_state
from tenuto.cli import main
from tenuto.presets import video
from tenuto.settings import environment
from tenuto.snapshot.audit.log import RawRecord
from tenuto.snapshot.dataset import Samples

Runs = Callable[[str], Recorded]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    made = RedisCluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def runs(
    embedded: local.LocalStack, cluster: RedisCluster, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    """A run by name, made once."""
    more = {
        "one": {},
        "three": {"TENUTO_REDIS__BUCKETS": "3"},
        "cluster": {
            "TENUTO_REDIS__URL": cluster.url,
            "TENUTO_REDIS__CLUSTER": "true",
            "TENUTO_REDIS__BUCKETS": "6",
        },
    }
    made: dict[str, Recorded] = {}

    def run(name: str) -> Recorded:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = record_run(embedded, folder, 60, f"buckets-{name}", **more[name])
        return made[name]

    return run


@pytest.mark.parametrize("name", ["three", "cluster"])
def test_a_run_with_buckets_is_clean_state_included(runs: Runs, name: str) -> None:
    recorded = runs(name)
    state = read_state(video.app, recorded.settings)
    findings = recorded.audit(files={"default": recorded.files}, state=state, strict=True)
    assert findings.clean, findings.table()
    assert findings.snapshots == 60
    assert findings.checked["positions"] == 60
    assert findings.checked["state"] > 20
    assert findings.checked["progress"] == recorded.settings.redis.buckets * 2 * 4


def test_a_state_is_audited_without_any_snapshot(runs: Runs) -> None:
    recorded = runs("three")
    events = {event.name for event in video.app.events}
    topics = {
        name: topic
        if name in events
        else replace(
            topic, partitions=[replace(p, start=0, end=0, records=[]) for p in topic.partitions]
        )
        for name, topic in recorded.log.topics.items()
    }
    log, settings = replace(recorded.log, topics=topics), recorded.settings
    state = read_state(video.app, settings)
    found = audit_log(video.app, settings, log, state=state)
    assert (found.clean, found.snapshots) == (True, 0), found.table()
    entity = next(key for key in state if not key.endswith(b"progress"))
    assert not audit_log(video.app, settings, log, state=state | {entity: b"x"}).clean
    with pytest.raises(AuditError, match="nothing to audit"):
        audit_log(video.app, settings, log)


@pytest.mark.parametrize("name", ["three", "cluster"])
def test_rows_are_those_of_one_bucket_bit_for_bit(runs: Runs, name: str) -> None:
    def digest(recorded: Recorded) -> str:
        table = Samples(recorded.files).table()
        assert table.num_rows > 100
        return hashlib.sha256(str(table.to_pylist()).encode()).hexdigest()

    assert digest(runs(name)) == digest(runs("one"))


def test_a_snapshot_that_saw_more_than_it_names_is_leaking(runs: Runs) -> None:
    recorded = runs("three")

    def plant(records: list[RawRecord]) -> list[RawRecord]:
        at = [at for at, record in enumerate(records) if record.value][-2]
        fields = msgspec.msgpack.decode(records[at].value or b"")
        told = [max(0, n - 12) for n in fields["log"]["next"]]
        body = msgspec.msgpack.encode({**fields, "log": {**fields["log"], "next": told}})
        records[at] = replace(records[at], value=body)
        return records

    findings = recorded.audit(change(recorded.log, "snapshots", 0, plant))
    assert "leaking" in {found.kind for found in findings.shown}, findings.table()


def test_inspect_and_audit_find_the_cluster(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environment(runs("cluster").settings).items():
        monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(main, ["inspect", "item", "i1", "--json"])
    assert shown.exit_code == 0, shown.output
    assert "of6." in shown.output
    audited = CliRunner().invoke(main, ["audit", "--state"])
    assert audited.exit_code == 0, audited.output
