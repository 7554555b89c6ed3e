"""The audit's judges and the platform's doors, over whatever a record may say."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenuto.features.events import Event, Field
from tenuto.features.rules import TimeRules
from tenuto.presets import video
from tenuto.snapshot.audit.judging import JudgedTopic, judge_events, judge_snapshots, murmur2
from tenuto.snapshot.audit.log import PartitionLog, RawRecord, TopicLog
from tenuto.streams.codec import EventCodec
from tenuto.streams.door import Limits, judge
from tenuto.streams.partitions import murmur2 as door_murmur2
from tenuto.streams.partitions import partition_of
from tenuto.streams.snapshot_door import judge_snapshots as door_judge_snapshots

NOW = 1_700_000_000_000
MAX_BYTES = 3_000
PARTITIONS = 2
RULES = TimeRules()
LIMITS = Limits(PARTITIONS, RULES, MAX_BYTES)

probes = Event(
    "probes",
    fields={
        "ratio": Field(float, ge=-2, le=1.5),
        "wild": Field(float, required=False),
        "text": Field(str, max_length=3, required=False, default="x"),
        "flag": bool,
        "level": Field(int, required=False, default=7),
    },
    version=3,
)
EVENTS = [probes, *video.events]


class Columns:
    """Records as the doors take them."""

    def __init__(self, topic: str, partition: int, records: list[RawRecord]) -> None:
        self.topic, self.partition = topic, partition
        self.offsets = np.array([r.offset for r in records], np.int64)
        self.timestamps_ms = np.array([r.timestamp_ms for r in records], np.int64)
        self.keys = [r.key for r in records]
        self.values = [r.value for r in records]
        self.headers = [r.headers for r in records]


def topic_log(partitions: list[list[RawRecord]]) -> TopicLog:
    logs = [PartitionLog(0, records[-1].offset + 1 if records else 0, records)
            for records in partitions]  # fmt: skip
    return TopicLog(b"incarnation-0001", logs)


def plain(value: Any) -> Any:
    return "nan" if value != value else value


def check_events(event: Event, records: list[RawRecord]) -> set[str]:
    """Both judge the same; returns the reasons that occurred."""
    codec = EventCodec(event)
    log = topic_log([records] * PARTITIONS)
    naive: JudgedTopic[Any] = judge_events(
        event, log, RULES, max_bytes=MAX_BYTES, partitions=PARTITIONS
    )
    for partition in range(PARTITIONS):
        door = judge(codec, LIMITS, Columns(event.name, partition, records))
        refused = {o: r for (p, o), r in naive.refused.items() if p == partition}
        assert refused == {r.offset: str(r.reason) for r in door.refused}
        found = naive.accepted[partition]
        assert [e.offset for e in found] == door.offsets.tolist()
        assert [e.arrival_ms for e in found] == door.arrivals.tolist()
        for name, column in door.columns.items():
            expected = column if isinstance(column, list) else column.tolist()
            assert [plain(e.fields[name]) for e in found] == [plain(v) for v in expected]
        assert naive.ended[partition] == door.ended
        if records:
            assert naive.arrivals[partition][-1][1] == door.arrival_after
    return set(naive.refused.values())


ODD: list[bytes] = [
    b"null", b"true", b"0", b"-0", b"1", b"3", b"4", b"-1", b"1.0", b"1e2", b"1e400", b"-1e400",
    b"1e-400", b"9" * 30, b"9" * 400, b"9" * 5_000, b"-" + b"9" * 30, b"281474976710656",
    b"281474976710657", b"NaN", b"Infinity", b"-Infinity", b"01", b".5", b"1.", b"+1", b'""',
    b'"x"', b'"' + b"y" * 300 + b'"', b'"\\ud800"', b'"\\udc00"', b'"\\ud83d\\ude00"',
    b'"\\ud83d\\u0041"', b'"\xff"', b'"\xed\xa0\x80"', b'"\\q"', b'"\x01"', b'"\x7f"', b'"\\u12"',
    b"[]", b"{}", b"[1,]", b'{"a":1,"a":2}', b"{1:2}", b"tru", b"", b"[" * 150 + b"]" * 150,
    b"[" * 199 + b"]" * 199, b"[" * 200 + b"]" * 200, b"[" * 1_100 + b"]" * 1_100,
    b'"' + b"[" * 500 + b'"', b"1.5", b"-2", b"2.5", "\"é\"".encode(), "\"ééé\"".encode(),
]  # fmt: skip


def good(event: Event, request: int, ts: int) -> dict[str, bytes]:
    fields: dict[str, Any] = {
        "request_id": f"r{request}", "user_id": "u", "query": "", "item_id": "i", "position": 1,
        "ts": ts, **event.example,
    }  # fmt: skip
    if event is probes:
        fields |= {"ratio": 0.5, "flag": True}
    return {name: json.dumps(value).encode() for name, value in fields.items()}


@st.composite
def event_records(draw: st.DrawFn) -> tuple[Event, list[RawRecord]]:
    event = draw(st.sampled_from(EVENTS))
    records = []
    for offset in range(draw(st.integers(1, 12))):
        ts = NOW + draw(st.sampled_from([0, -300_000, -300_001, 5_000, 5_001, 400_000]))
        pairs = list(good(event, draw(st.integers(0, 3)), ts).items())
        for _ in range(draw(st.integers(0, 2))):
            names = [*event.all_fields, "v", "unknown", "\\ud800", "\\u0074s", "\\q", "é"]
            name, value = draw(st.sampled_from(names)), draw(st.sampled_from(ODD))
            how = draw(st.integers(0, 2))
            if how:
                pairs = [pair for pair in pairs if pair[0] != name] if how == 1 else pairs
                pairs.insert(draw(st.integers(0, len(pairs))), (name, value))
            else:
                pairs = [pair for pair in pairs if pair[0] != name]
        body = b"{" + b",".join(b'"' + n.encode() + b'": ' + v for n, v in pairs) + b"}"
        if draw(st.integers(0, 5)) == 0:
            at = draw(st.integers(0, len(body)))
            body = body[:at] + draw(st.binary(max_size=2)) + body[at + draw(st.integers(0, 3)) :]
        value = draw(st.sampled_from([body] * 12 + [b"", None, b" ", b"x" * 3_001]))
        headers = draw(
            st.sampled_from(
                [(), (), (("tenuto-heartbeat", b"1"),),
                 (("tenuto-heartbeat", b"1"), ("tenuto-end", b"1")), (("tenuto-end", b"1"),)]
            )
        )  # fmt: skip
        stamp = NOW + draw(st.sampled_from([0, 0, -9, 6_000, 299_999]))
        records.append(RawRecord(offset, stamp, None, value, headers))
    return event, records


@settings(max_examples=1_500)
@given(drawn=event_records())
def test_an_event_is_judged_as_at_the_door(drawn: tuple[Event, list[RawRecord]]) -> None:
    check_events(*drawn)


def test_every_odd_value_in_every_field_is_judged_as_at_the_door() -> None:
    reasons: set[str] = set()
    for event in EVENTS:
        records = []
        for name in [*event.all_fields, "v", "unknown"]:
            for value in ODD:
                for twice in (False, True):
                    pairs = good(event, 1, NOW)
                    first = [(name, value), *pairs.items()]
                    chosen = first if twice else [*({**pairs, name: value}).items()]
                    body = b",".join(b'"%s":%s' % (n.encode(), v) for n, v in chosen)
                    records.append(RawRecord(len(records), NOW, None, b"{" + body + b"}", ()))
        reasons |= check_events(event, records)
    assert reasons == {"oversized", "malformed", "version", "field", "misplaced", "late", "future"}


@given(key=st.binary(max_size=300))
def test_both_hashes_of_a_key_are_javas(key: bytes) -> None:
    assert murmur2(key) == door_murmur2(key)


def snapshot_body(request: int, ts: int) -> dict[str, Any]:
    return {
        "request_id": f"r{request}", "user_id": "u", "query": "q", "request_ts": ts, "as_of": ts,
        "items": ["a", "b"], "columns": [["x", "h1"], ["y", "h2"]], "values": bytes(16),
        "states": bytes(4), "layout": "l",
        "log": {"topics": ["clicks"], "partitions": 2, "incarnations": bytes(16),
                "origin": [0, 0], "next": [3, 4], "batches": [[0, 5, 3, 1]],
                "buckets": 3, "read": [0, 2], "differing": [[2, 1, 0, 9, 0, 0, 0]]},
        "v": 1, "positions": [0, -1], "context": {"p": [1, None], "d": "mobile"},
        "scores": {"s": bytes(8)}, "policy": "a", "slice": "b", "model": "c", "propensity": 0.5,
        "weight": 2,
    }  # fmt: skip


ODD_PARTS: list[Any] = [
    None, True, 0, 1, -1, 2, 3.5, float("nan"), float("inf"), 2**48, 2**48 + 1, 2**63, 2**64 - 1,
    -(2**63), "", "x", "served_x", "item_id", "x__state", "y" * 257, "z" * 513, b"", b"1234",
    bytes(8), bytes(16), [], [1], [-1, 100_000], [0, 100_001], [0, 2**64 - 1], ["a", "a"], ["a"],
    ["", "b"], ["a", 1], ["a"] * 10_001, [["x", "h"]], [["x", "h"], ["x", "h"]],
    [["x", "h"], ["x__state", "h"]], [["item_id", "h"], ["y", "h"]], [["", "h"], ["y", "h"]],
    [["x"]], {}, {"s": bytes(8)}, {"s": b"1"}, {"s": None}, {"p": [[1]]}, {"p": {"q": 1}},
    {"p": b"1"}, {1: 2}, [[1, 2, 3, 4]], [[-1]], [[2**63]], msgspec.msgpack.Ext(5, b"1"),
    msgspec.msgpack.Ext(-1, b"1"),
]  # fmt: skip
BAD_BYTES = [b"\xa1\xff", b"\xc1", b"\x81\x80\x01", b"\xd4\xff\x00", b"\xdd\xff\xff\xff\xff",
             b"\x91" * 199 + b"\x01", b"\x91" * 200 + b"\x01", b"\x91" * 199 + b"\x90",
             b"\x91" * 200 + b"\x90", b"\x91" * 5_000 + b"\x01", b"\x81\x01" * 200 + b"\x01",
             b"\xc7\x03\x01abc", b"\xed"]  # fmt: skip


def packed(pairs: list[tuple[Any, bytes]]) -> bytes:
    head = b"\xde" + len(pairs).to_bytes(2, "big")
    return head + b"".join(msgspec.msgpack.encode(key) + value for key, value in pairs)


def check_snapshots(records: list[RawRecord], max_bytes: int = 60_000) -> set[str]:
    limits = Limits(PARTITIONS, RULES, max_bytes)
    log = topic_log([records] * PARTITIONS)
    naive = judge_snapshots(log, RULES, max_bytes=max_bytes, partitions=PARTITIONS)
    for partition in range(PARTITIONS):
        door = door_judge_snapshots(limits, Columns("snapshots", partition, records), 0)
        refused = {o: r for (p, o), r in naive.refused.items() if p == partition}
        assert refused == {r.offset: str(r.reason) for r in door.refused}
        assert naive.ended[partition] == door.ended
        assert len(naive.accepted[partition]) == len(door.placed)
        for mine, theirs in zip(naive.accepted[partition], door.placed, strict=True):
            assert (mine.offset, mine.arrival_ms) == (theirs.offset, theirs.arrival_ms)
            fields = {**mine.fields, "log": dict(sorted(mine.fields["log"].items()))}
            assert repr(fields) == repr(
                {name: mapped(getattr(theirs.snapshot, name)) for name in fields}
            )
    return set(naive.refused.values())


def mapped(value: Any) -> Any:
    return {name: getattr(value, name) for name in sorted(value.__struct_fields__)} if isinstance(
        value, msgspec.Struct
    ) else value  # fmt: skip


def test_every_odd_part_of_every_field_of_a_snapshot_is_judged_as_at_the_door() -> None:
    encode = msgspec.msgpack.encode
    records: list[RawRecord] = []

    def add(body: bytes) -> None:
        records.append(RawRecord(len(records), NOW, None, body, ()))

    good_one = snapshot_body(1, NOW)
    parts = [*map(encode, ODD_PARTS), *BAD_BYTES]
    for name in [*good_one, "unknown", 7, b"bin"]:
        for part in parts:
            pairs = {key: encode(value) for key, value in good_one.items()}
            add(packed([*({**pairs, name: part}).items()]))
            add(packed([(name, part), *pairs.items()]))
        add(packed([(key, encode(value)) for key, value in good_one.items() if key != name]))
    for name in good_one["log"]:
        for part in parts:
            log = {key: encode(value) for key, value in good_one["log"].items()} | {name: part}
            pairs = {key: encode(value) for key, value in good_one.items()}
            add(packed([*({**pairs, "log": packed([*log.items()])}).items()]))
    add(bytes(60_001))
    assert check_snapshots(records) == {
        "oversized", "malformed", "version", "field", "misplaced", "late", "future",
    }  # fmt: skip
    assert len(records) > 2_000


@settings(max_examples=500)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_snapshot_is_judged_as_at_the_door(seed: int) -> None:
    rnd = random.Random(seed)
    records = []
    for offset in range(12):
        ts = NOW + rnd.choice([0, -60_000, -60_001, 5_000, 5_001])
        body = bytearray(msgspec.msgpack.encode(snapshot_body(rnd.randrange(4), ts)))
        for _ in range(rnd.randrange(3)):
            at = rnd.randrange(len(body))
            how = rnd.randrange(4)
            if how == 0:
                body[at] = rnd.randrange(256)
            elif how == 1:
                del body[at : at + rnd.randrange(1, 4)]
            elif how == 2:
                body[at:at] = rnd.randbytes(rnd.randrange(1, 3))
            else:
                body = body[:at]
                break
        value = rnd.choice([bytes(body)] * 9 + [b"", None])
        headers = rnd.choice([(), (), (("tenuto-heartbeat", b"1"), ("tenuto-end", b""))])
        records.append(RawRecord(offset, NOW + rnd.choice([0, 0, -5, 70]), None, value, headers))
    check_snapshots(records, rnd.choice([200, 60_000]))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_a_good_record_counts_once(event: Event) -> None:
    home = int(partition_of(["r1"], PARTITIONS)[0])
    body = b",".join(b'"%s":%s' % (n.encode(), v) for n, v in good(event, 1, NOW).items())
    log = topic_log([[RawRecord(7, NOW, None, b"{" + body + b"}", ())]] * PARTITIONS)
    judged = judge_events(event, log, RULES, max_bytes=MAX_BYTES, partitions=PARTITIONS)
    (found,) = judged.accepted[home]
    assert (found.event, found.partition, found.offset) == (event.name, home, 7)
    assert judged.refused == {(1 - home, 7): "misplaced"}
