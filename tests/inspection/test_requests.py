"""``tenuto inspect request`` and ``tenuto dead-letters`` against logs written by hand."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from kafka import KafkaProducer

from tenuto import local
from tenuto.cli import main
from tenuto.features.reader import Reader, Request
from tenuto.features.rules import TimeRules
from tenuto.inspection.request_text import position_lines
from tenuto.presets import video
from tenuto.snapshot import record as snapshots
from tenuto.snapshot.delay_line import DelayLine
from tenuto.snapshot.label_memory import LabelBatch
from tenuto.snapshot.record import LogPositions
from tenuto.snapshot.sample_record import encode_rows
from tenuto.snapshot.samples import PlacedSnapshot
from tenuto.streams.connection import KafkaConnection
from tenuto.streams.dead_letters import letter
from tenuto.streams.heartbeats import heartbeat
from tenuto.streams.partitions import partition_of
from tenuto.streams.refusals import Reason, Refusal
from tenuto.streams.topic_names import TopicNames
from tenuto.streams.topics import Sizes, Topics, plan

pytestmark = pytest.mark.stack
T = 1_700_000_000_000
PARTITIONS = 2
RULES = TimeRules()
STREAM = video.samples[0]
HORIZON_MS = STREAM.horizon_ms(RULES.lateness_ms)
PLAYED_REACH_MS = 40 * 60_000


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("TENUTO_KAFKA__PARTITIONS", str(PARTITIONS))


class Log:
    """Topics of a namespace of their own, and somebody who writes them."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.names = TopicNames(f"t{uuid.uuid4().hex[:8]}")
        with Topics(KafkaConnection(bootstrap=bootstrap)) as topics:
            topics.create(
                plan(
                    self.names,
                    video.events,
                    video.samples,
                    partitions=PARTITIONS,
                    sizes=Sizes(65_536, 1 << 20),
                    clock="driver",
                )
            )
        self.producer = KafkaProducer(bootstrap_servers=bootstrap)

    def write(self, topic: str, request_id: str, value: bytes, ts: int, **more: Any) -> int:
        partition = more.pop("partition", int(partition_of([request_id], PARTITIONS)[0]))
        sent = self.producer.send(
            self.names.of(topic),
            value,
            key=request_id.encode() or None,
            partition=partition,
            timestamp_ms=ts,
            **more,
        )
        return int(sent.get(20).offset)

    def event(self, name: str, request_id: str, ts: int, arrival: int = 0, **own: Any) -> int:
        fields = {"request_id": request_id, "user_id": "u", "query": "q", "item_id": "i0"}
        value = json.dumps(fields | {"position": 0, "ts": ts} | own).encode()
        return self.write(name, request_id, value, arrival or ts)

    def snapshot(self, request_id: str, ts: int, arrival: int = 0) -> int:
        snapshot = snapshot_of(request_id, ts)
        return self.write("snapshots", request_id, snapshots.encode(snapshot), arrival or ts)

    def advance(self, arrival: int) -> None:
        beat = heartbeat()
        for topic in [*(event.name for event in video.events), "snapshots"]:
            for partition in range(PARTITIONS):
                self.producer.send(
                    self.names.of(topic),
                    beat.value,
                    headers=beat.headers,
                    partition=partition,
                    timestamp_ms=arrival,
                ).get(20)

    def dead(self, topic: str, request_id: str, offset: int, value: bytes, text: str) -> None:
        partition = int(partition_of([request_id], PARTITIONS)[0])
        name = self.names.of(topic)
        refusal = Refusal(
            name, partition, offset, Reason.FIELD, text, value, request_id.encode(), T
        )
        record = letter(refusal, 10_000)
        self.producer.send(
            self.names.dead_letters, record.value, key=record.key, headers=record.headers
        ).get(20)

    def tenuto(self, *arguments: str) -> Result:
        common = ["--bootstrap", self.bootstrap, "--namespace", self.names.namespace]
        return CliRunner().invoke(main, [*common, *arguments])

    def inspect(self, request_id: str, *arguments: str) -> dict[str, Any]:
        result = self.tenuto("inspect", "request", request_id, "--json", *arguments)
        assert result.exit_code == 0, (result.output, result.exception)
        found: dict[str, Any] = json.loads(result.stdout)
        return found


def snapshot_of(request_id: str, ts: int) -> snapshots.Snapshot:
    reader = Reader(video.app.feature_set(), PARTITIONS)
    request, items = Request(request_id, "u", "q", ts), ["i0", "i1", "i2"]
    plan = reader.plan(request, items, {})
    matrix = reader.decode(request, items, {}, ts, plan, [None] * len(plan.keys))
    return snapshots.of(request, matrix, policy="test", scores={"ctr": [0.3, 0.2, 0.1]})


@pytest.fixture
def log(stack: local.LocalStack) -> Iterator[Log]:
    log = Log(stack.bootstrap)
    yield log
    log.producer.close()


def joined(log: Log, request_id: str, ts: int, offset: int) -> None:
    """What the joiner writes for one snapshot with a click on its first item."""
    partition = int(partition_of([request_id], PARTITIONS)[0])
    line = DelayLine(STREAM, video.events, RULES, partition, offset, ts)
    line.add_snapshots([PlacedSnapshot(snapshot_of(request_id, ts), offset, ts)], offset + 1, ts)
    click = LabelBatch(
        "clicks",
        np.array([ts + 2_000]),
        np.array([0]),
        np.array([0], np.int32),
        pa.array([request_id]),
        pa.array(["i0"]),
    )
    line.add_labels(click, ts + 2 * HORIZON_MS)
    for event in ("impressions", "plays", "likes"):
        line.labels[event].arrival_ms = ts + 2 * HORIZON_MS
    for emission in line.emit():
        assert emission.rows is not None
        log.write(
            "samples",
            "",
            encode_rows(emission.rows),
            emission.interval.arrival_ms,
            partition=partition,
            headers=emission.interval.headers(),
        )


def test_a_snapshot_is_shown_with_its_values_states_and_positions(log: Log) -> None:
    offset = log.snapshot("r1", T, arrival=T + 40)
    report = log.inspect("r1")
    (found,) = report["snapshots"]
    assert (found["offset"], found["arrival_ms"], found["refused"]) == (offset, T + 40, "")
    assert (found["user_id"], found["query"], found["policy"]) == ("u", "q", "test")
    assert [item["item_id"] for item in found["items"]] == ["i0", "i1", "i2"]
    item = found["items"][1]
    assert (item["position"], item["scores"]) == (1, {"ctr": pytest.approx(0.2)})
    assert (item["values"]["item_clicks_1h"], item["states"]["item_clicks_1h"]) == (None, 3)
    assert item["values"]["hour"] == 22.0
    assert set(found["log"]["next"]) == {"clicks", "impressions", "likes", "plays"}


def test_what_a_label_still_waits_for_is_said_for_each_topic(log: Log) -> None:
    log.snapshot("r1", T)
    log.advance(T + 5 * 60_000)
    report = log.inspect("r1")
    (joined,) = report["snapshots"][0]["samples"]
    assert (joined["verdict"], joined["final_after_ms"]) == ("waiting", T + HORIZON_MS)
    fronts = {front["event"]: front for front in joined["fronts"]}
    assert fronts["plays"]["needs_ms"] == T + PLAYED_REACH_MS + RULES.lateness_ms
    assert fronts["impressions"]["needs_ms"] < fronts["clicks"]["needs_ms"]
    assert {front["stands_ms"] for front in fronts.values()} == {T + 5 * 60_000}
    text = log.tenuto("inspect", "request", "r1").stdout
    assert "waiting until arrivals have passed 2023-11-14T22:58:20.000Z" in text
    assert "40m to go" in text


def test_a_final_snapshot_without_a_joiner_says_that_one_is_missing(log: Log) -> None:
    log.snapshot("r1", T)
    log.advance(T + HORIZON_MS + 1)
    (joined,) = log.inspect("r1")["snapshots"][0]["samples"]
    assert (joined["verdict"], joined["emitted_to"]) == ("final", None)
    assert "is `tenuto worker join --stream default` running?" in log.tenuto(
        "inspect", "request", "r1"
    ).stdout  # fmt: skip


def test_label_events_are_shown_with_the_doors_verdict(log: Log) -> None:
    log.event("clicks", "r1", T - 3_600_000)
    log.snapshot("r1", T)
    log.event("clicks", "other", T + 1_000)
    counted = log.event("clicks", "r1", T + 2_000)
    bad = log.event("clicks", "r1", T + 3_000, position=-3)
    late = log.event("clicks", "r1", T + 4_000, arrival=T + 20 * 60_000)
    log.event("plays", "r1", T + 9_000, started_ts=T + 9_000, play_ms=0, play_ms_delta=0)
    value = b'{"request_id":"r1","position":-3}'
    log.dead("clicks", "r1", bad, value, "position: -3 in clicks: must be >= 0")
    events = log.inspect("r1")["events"]
    verdicts = {(e["event"], e["offset"]): (e["reason"], e["dead_letter"]) for e in events}
    assert verdicts == {
        ("clicks", counted): ("", False),
        ("clicks", bad): ("field", True),
        ("clicks", late): ("late", False),
        ("plays", 0): ("", False),
    }
    clicks = {e["offset"]: e for e in events if e["event"] == "clicks"}
    assert clicks[counted]["fields"]["ts"] == T + 2_000
    assert clicks[late]["refused"].endswith("ms before its arrival (is 1196000)")
    text = log.tenuto("inspect", "request", "r1").stdout
    assert "events: 2 accepted, 2 refused" in text
    assert "must be >= 0; dead letter written" in text


def test_rows_are_found_in_the_samples(log: Log) -> None:
    for number in range(5):
        before = f"r{number}"
        joined(log, before, T + number, log.snapshot(before, T + number))
    offset = log.snapshot("r9", T + 1_000)
    log.advance(T + HORIZON_MS + 2_000)
    joined(log, "r9", T + 1_000, offset)
    (found,) = log.inspect("r9")["snapshots"][0]["samples"]
    assert found["verdict"] == "joined"
    assert [row["item_id"] for row in found["rows"]] == ["i0", "i1", "i2"]
    assert [row["clicked"] for row in found["rows"]] == [1, 0, 0]
    assert {row["snapshot_offset"] for row in found["rows"]} == {offset}


def test_a_refused_snapshot_says_why_and_has_no_rows(log: Log) -> None:
    log.snapshot("r1", T, arrival=T + 90_000)
    (found,) = log.inspect("r1")["snapshots"]
    assert found["reason"] == "late"
    assert "must be at most 60000 ms before its arrival (is 90000)" in found["refused"]
    assert found["samples"][0]["verdict"] == "refused"


def test_two_snapshots_of_one_request_are_both_shown(log: Log) -> None:
    offsets = [log.snapshot("r1", T), log.snapshot("r1", T + 500)]
    log.advance(T + 10_000)
    assert [found["offset"] for found in log.inspect("r1")["snapshots"]] == offsets


def test_a_request_known_to_dead_letters_alone_is_shown(log: Log) -> None:
    log.dead("clicks", "r1", 7, b'{"request_id":"r1"', "record: must be a JSON object")
    report = log.inspect("r1")
    assert report["snapshots"] == []
    assert [dead["origin"] for dead in report["dead_letters"]] == [
        f"{log.names.of('clicks')}/{int(partition_of(['r1'], PARTITIONS)[0])}/7"
    ]


def test_an_unknown_id_is_one_line_that_says_where_it_was_looked_for(log: Log) -> None:
    log.snapshot("r1", T)
    result = log.tenuto("inspect", "request", "nobody")
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    partition = int(partition_of(["nobody"], PARTITIONS)[0])
    assert line.startswith("tenuto: request 'nobody': no snapshot among the ")
    assert f"{log.names.snapshots}[{partition}], its partition by murmur2" in line


def test_what_the_bound_left_out_is_said(log: Log) -> None:
    partition = int(partition_of(["r1"], PARTITIONS)[0])
    value = snapshots.encode(snapshot_of("x", T))
    log.snapshot("r1", T - 1)
    for _ in range(2_100):
        log.producer.send(log.names.snapshots, value, key=b"x", partition=partition, timestamp_ms=T)
    log.producer.flush()
    result = log.tenuto("inspect", "request", "r1", "--max-records", "1000")
    assert result.exit_code == 2
    assert "among the newest 2000 of 2101 records" in result.stderr
    assert "--max-records looks further back" in result.stderr
    assert log.inspect("r1", "--max-records", "3000")["snapshots"]


def test_another_partition_count_is_named(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENUTO_KAFKA__PARTITIONS", "24")
    result = log.tenuto("inspect", "request", "r1")
    assert result.exit_code == 2
    assert "has 2 partitions, and kafka.partitions is 24: set it to 2" in result.stderr


def test_dead_letters_are_counted_by_origin_and_the_latest_listed(log: Log) -> None:
    for offset in (1, 2, 2, 3):
        log.dead("clicks", "r1", offset, b"\xff{", f"position: -3 in clicks@{offset}")
    log.dead("plays", "r1", 9, b"{}", "ts: (absent)")
    text = log.tenuto("dead-letters", "--limit", "2").stdout
    clicks, plays = log.names.of("clicks"), log.names.of("plays")
    assert [line.split() for line in text.splitlines()[1:4]] == [
        [clicks, "field", "3"],
        [plays, "field", "1"],
        ["all", "-", "4"],
    ]
    shown = json.loads(log.tenuto("dead-letters", "--topic", "clicks", "--json").stdout)
    assert shown["total"] == 3
    assert [dead["text"][-1] for dead in shown["latest"]] == ["1", "2", "3"]
    assert log.tenuto("dead-letters", "--reason", "late").stdout.startswith("no such dead letters")


def test_the_untouched_bytes_of_a_dead_letter_go_to_stdout(log: Log) -> None:
    log.dead("clicks", "r1", 1, b"\xff{\n", "record: must be UTF-8")
    origin = f"{log.names.of('clicks')}/{int(partition_of(['r1'], PARTITIONS)[0])}/1"
    result = log.tenuto("dead-letters", "--raw", origin)
    assert (result.exit_code, result.stdout_bytes) == (0, b"\xff{\n")
    wrong = log.tenuto("dead-letters", "--raw", "clicks/0/99")
    assert (wrong.exit_code, wrong.stdout) == (2, "")


def test_wrong_reasons_are_told_the_right_ones(log: Log) -> None:
    result = log.tenuto("dead-letters", "--reason", "ugly")
    assert result.exit_code == 2
    assert "must be one of oversized, empty, malformed" in result.stderr


@pytest.mark.parametrize(
    ("topics", "partitions", "offsets", "batches"),
    [
        (["clicks"], 2, [1], []),
        (["clicks"], 0, [], [[0, 5, 2, 1]]),
        (["clicks"], 1, [1], [[1, 5, 2, 1]]),
        (["clicks"], 1, [1], [[0, 5]]),
    ],
)
def test_positions_that_do_not_fit_together_are_said_so(
    topics: list[str], partitions: int, offsets: list[int], batches: list[list[int]]
) -> None:
    (line,) = position_lines(LogPositions(topics, partitions, b"", offsets, offsets, batches))
    assert "cannot be right" in line
