"""The join against its brute-force oracle, then its rules one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from brute_join import Record, joined_rows, useless_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from tenuto.features.events import Event, Field
from tenuto.snapshot import label_memory
from tenuto.snapshot.join import SnapshotBlock, join, label_schema
from tenuto.snapshot.label_memory import LabelBatch, LabelMemory
from tenuto.snapshot.labels import Label, SampleStream, first, longest, total
from tenuto.snapshot.string_hash import StringHash, hash64

views = Event("views", implies_impression=True)
# "delay" is a name that the join might keep for itself.
plays = Event(
    "plays",
    fields={
        "play_ms": int,
        "delta_ms": int,
        "delay": Field(int, required=False, default=0),
        "price": Field(float, required=False, default=0.0),
        "converted": Field(bool, required=False, default=False),
    },
    implies_impression=True,
)
likes = Event("likes")
EVENTS = [views, plays, likes]

IMPRESSION_WINDOW_MS, WINDOW_MS = 4, 6
WINDOW = {"window": WINDOW_MS}
STREAM = SampleStream(
    "default",
    [
        first(likes, "liked", delay="like_delay_ms", **WINDOW),
        first(plays, "conversion", where="converted", delay="conversion_delay_ms", window=3),
        longest(plays, "play_ms", "longest_ms", carry=("delay", "price", "converted"), **WINDOW),
        total(plays, "delta_ms", "played_ms", window=9),
    ],
    impression_window=IMPRESSION_WINDOW_MS,
)
REACH_MS = IMPRESSION_WINDOW_MS + 9


def one_hash(strings: pa.Array) -> np.ndarray:
    return np.zeros(len(strings), dtype=np.uint64)


def four_hashes(strings: pa.Array) -> np.ndarray:
    return hash64(strings) % np.uint64(4)


def batch_of(event: Event, records: list[Record]) -> LabelBatch:
    def column(name: str, dtype: type) -> np.ndarray:
        return np.array([record[name] for record in records], dtype=dtype)

    positions = [-1 if record["position"] is None else record["position"] for record in records]
    dtypes = {int: np.int64, bool: np.bool_, float: np.float64}
    return LabelBatch(
        event.name,
        column("ts", np.int64),
        column("offset", np.int64),
        np.array(positions, dtype=np.int32),
        pa.array([record["request_id"] for record in records], type=pa.string()),
        pa.array([record["item_id"] for record in records], type=pa.string()),
        {name: column(name, dtypes[event.all_fields[name].type]) for name in event.fields},
    )


def block_of(snapshots: list[Record]) -> SnapshotBlock:
    shown = [slot for snapshot in snapshots for slot in snapshot["shown"]]
    return SnapshotBlock(
        [snapshot["request_id"] for snapshot in snapshots],
        np.array([snapshot["request_ts"] for snapshot in snapshots], dtype=np.int64),
        np.cumsum([0, *(len(snapshot["shown"]) for snapshot in snapshots)]),
        pa.array([item_id for item_id, _ in shown], type=pa.string()),
        np.array([-1 if p is None else p for _, p in shown], dtype=np.int32),
    )


def rows_of(memory: LabelMemory, snapshots: list[Record]) -> list[Record]:
    table = pa.table(join(memory, block_of(snapshots)).columns, schema=label_schema(memory.stream))
    table.validate(full=True)
    rows: list[Record] = table.to_pylist()
    return rows


# Few of everything, so that ids, times and positions often meet.
TS = st.integers(1000, 1022)
REQUEST_TS = st.integers(1000, 1008)
REQUEST_IDS = st.sampled_from(["r1", "r" * 12])
ITEM_IDS = st.sampled_from(["a", "b"])
POSITIONS = st.sampled_from([None, 0, 1, 2])
SLOTS = st.lists(st.tuples(ITEM_IDS, POSITIONS), max_size=5)

PLAY_FIELDS = st.fixed_dictionaries(
    {
        "play_ms": st.integers(-1, 2),
        "delta_ms": st.integers(-1, 2),
        "delay": st.integers(0, 9),
        "price": st.sampled_from([0.0, 0.5]),
        "converted": st.booleans(),
    }
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    event = draw(st.sampled_from(EVENTS))
    record: Record = {
        "event": event.name,
        "request_id": draw(REQUEST_IDS),
        "item_id": draw(ITEM_IDS),
        "position": draw(POSITIONS),
        "ts": draw(TS),
    }
    if event is plays:
        record |= draw(PLAY_FIELDS)
    return record


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Record], list[Record]]:
    """Labels in order of arrival, repeated ones and near-repetitions among them, and snapshots."""
    labels = draw(st.lists(records(), max_size=40))
    if labels:
        labels += draw(st.lists(st.sampled_from(labels), max_size=5))
    if reports := [label for label in labels if label["event"] == plays.name]:
        again = draw(st.lists(st.tuples(st.sampled_from(reports), PLAY_FIELDS), max_size=5))
        labels += [{**report, **fields} for report, fields in again]
    labels = [{**label, "offset": offset} for offset, label in enumerate(labels)]
    snapshot = st.fixed_dictionaries(
        {"request_id": REQUEST_IDS, "request_ts": REQUEST_TS, "shown": SLOTS}
    )
    return labels, draw(st.lists(snapshot, max_size=8))


@pytest.mark.parametrize("string_hash", [hash64, one_hash, four_hashes])
@settings(max_examples=250, deadline=None)
@given(log=logs(), data=st.data())
def test_rows_are_the_oracles_however_records_are_cut_merged_and_evicted(
    string_hash: StringHash, log: tuple[list[Record], list[Record]], data: st.DataObject
) -> None:
    labels, snapshots = log
    # Small enough that pending batches, segments of several tiers and merges all occur.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_memory, "PENDING_ROWS", data.draw(st.sampled_from([1, 4, 100])))
        patch.setattr(label_memory, "FANOUT", data.draw(st.sampled_from([2, 4])))
        memory = LabelMemory(STREAM, EVENTS, string_hash=string_hash)
        rows: list[Record] = []
        unmatched: dict[str, int] = {}
        not_shown: dict[str, int] = {}
        dropped = 0

        def evict(before_ts: int) -> None:
            nonlocal dropped
            gone = memory.evict(before_ts)
            dropped += gone.rows
            for counts, more in ((unmatched, gone.unmatched), (not_shown, gone.not_shown)):
                for event, count in more.items():
                    counts[event] = counts.get(event, 0) + count

        at = done = 0
        while done < len(snapshots):
            last = done + data.draw(st.integers(1, len(snapshots) - done))
            block = snapshots[done:last]
            final_ts = max(snapshot["request_ts"] for snapshot in block) + REACH_MS
            needed = [i + 1 for i, label in enumerate(labels) if label["ts"] <= final_ts]
            while at < max(needed, default=0):
                at = feed(memory, labels, at, data)
            rows += rows_of(memory, block)
            done = last
            if data.draw(st.booleans()):
                oldest = min((s["request_ts"] for s in snapshots[done:]), default=5000)
                evict(oldest - data.draw(st.integers(0, 3)))
        while at < len(labels):
            at = feed(memory, labels, at, data)
        evict(5000)

    assert rows == joined_rows(STREAM, EVENTS, labels, snapshots)
    assert (unmatched, not_shown) == useless_labels(STREAM, labels, snapshots)
    assert dropped == len(labels)
    assert memory.rows == memory.nbytes == 0


def feed(memory: LabelMemory, labels: list[Record], at: int, data: st.DataObject) -> int:
    """Add the next few records, one batch per event; returns how far the labels are read."""
    end = at + data.draw(st.integers(1, 12))
    for event in data.draw(st.permutations(EVENTS)):
        mine = [label for label in labels[at:end] if label["event"] == event.name]
        memory.add(batch_of(event, mine))
    return end


def label(event: Event, item_id: str, ts: int, position: int | None = None, **own: Any) -> Record:
    record = {"event": event.name, "request_id": "r1", "item_id": item_id, "position": position}
    defaults = dict.fromkeys(event.fields, 0) | own
    return record | {"ts": ts} | defaults


def snapshot(*shown: tuple[str, int | None], ts: int = 1000, request_id: str = "r1") -> Record:
    return {"request_id": request_id, "request_ts": ts, "shown": list(shown)}


def joined(labels: list[Record], *snapshots: Record, stream: SampleStream = STREAM) -> list[Record]:
    memory = LabelMemory(stream, EVENTS)
    for event in EVENTS:
        mine = [
            {"offset": offset, **record}
            for offset, record in enumerate(labels)
            if record["event"] == event.name
        ]
        if event.name in memory.reach_ms:
            memory.add(batch_of(event, mine))
    return rows_of(memory, list(snapshots))


@pytest.mark.parametrize(("ts", "impressed"), [(999, 0), (1000, 1), (1004, 1), (1005, 0)], ids=str)
def test_an_impression_counts_within_its_window_ends_included(ts: int, impressed: int) -> None:
    row = joined([label(views, "a", ts)], snapshot(("a", 0)))[0]
    assert row["impressed"] == impressed
    assert row["impression_delay_ms"] == (ts - 1000 if impressed else None)


@pytest.mark.parametrize(("ts", "liked"), [(1001, 0), (1002, 1), (1008, 1), (1009, 0)], ids=str)
def test_a_label_counts_from_the_impression_to_the_end_of_its_window(ts: int, liked: int) -> None:
    labels = [label(views, "a", 1002), label(likes, "a", ts)]
    row = joined(labels, snapshot(("a", 0)))[0]
    assert row["liked"] == liked
    assert row["like_delay_ms"] == (ts - 1002 if liked else None)


def test_a_play_before_the_impressions_beacon_sets_the_time_of_impression() -> None:
    labels = [label(views, "a", 1004), label(plays, "a", 1001, converted=True)]
    row = joined(labels, snapshot(("a", 0)))[0]
    assert (row["impression_delay_ms"], row["conversion_delay_ms"]) == (1, 0)


def test_a_row_that_nobody_saw_has_no_labels() -> None:
    row = joined([label(likes, "a", 1002), label(plays, "a", 1005)], snapshot(("a", 0)))[0]
    assert {name for name, value in row.items() if value} == set()
    assert row["longest_ms"] is None
    assert row["played_ms"] is None


def test_of_equally_long_reports_the_earliest_record_is_carried() -> None:
    labels = [
        label(plays, "a", 1003, play_ms=7, price=1.0),
        label(plays, "a", 1002, play_ms=7, price=2.0),
        label(plays, "a", 1002, play_ms=7, price=3.0),
        label(plays, "a", 1001, play_ms=6, price=4.0),
    ]
    row = joined(labels, snapshot(("a", 0)))[0]
    assert (row["longest_ms"], row["price"]) == (7, 2.0)


def test_a_clients_exact_repetition_is_summed_once_and_anything_else_again() -> None:
    labels = [label(plays, "a", 1001, 0, delta_ms=5)] * 3
    labels += [label(plays, "a", 1001, None, delta_ms=5)]
    labels += [label(plays, "a", 1002, 0, delta_ms=5)]
    labels += [label(plays, "a", 1001, 0, delta_ms=7)]
    assert joined(labels, snapshot(("a", 0)))[0]["played_ms"] == 22


def test_an_item_shown_twice_takes_labels_by_position_else_in_its_first_slot() -> None:
    shown = snapshot(("b", None), ("a", None), ("a", 2), ("a", 3), ("a", 3))
    labels = [
        label(views, "a", 1003, 3),
        label(views, "a", 1002, 2),
        label(views, "a", 1001, 9),
        label(views, "a", 1004, None),
    ]
    delays = [row["impression_delay_ms"] for row in joined(labels, shown)]
    assert delays == [None, 1, 2, 3, None]


def test_an_item_shown_just_twice_takes_a_label_in_its_second_slot() -> None:
    rows = joined([label(views, "a", 1003, 1)], snapshot(("a", 0), ("a", 1)))
    assert [row["impressed"] for row in rows] == [0, 1]


def test_two_snapshots_of_one_request_are_both_joined_each_by_its_own_time() -> None:
    labels = [label(views, "a", 1003), label(likes, "a", 1005)]
    rows = joined(
        labels, snapshot(("a", 0)), snapshot(("a", 0), ts=1002), snapshot(("a", 0), ts=1004)
    )
    assert [row["impression_delay_ms"] for row in rows] == [3, 1, None]
    assert [row["like_delay_ms"] for row in rows] == [2, 2, None]


def test_labels_that_were_not_shown_or_came_too_late_are_told_apart() -> None:
    memory = LabelMemory(STREAM, EVENTS)
    seen = [label(views, "a", 1001), label(views, "z", 1001), label(views, "a", 1005)]
    memory.add(batch_of(views, [record | {"offset": 0} for record in seen]))
    rows_of(memory, [snapshot(("a", 0))])
    dropped = memory.evict(2000)
    assert (dropped.rows, dropped.unmatched, dropped.not_shown) == (3, {"views": 1}, {"views": 1})


def test_an_eviction_spares_a_label_of_the_very_time_of_the_oldest_request() -> None:
    memory = LabelMemory(STREAM, EVENTS)
    times = [997, 998, 999, 1000]
    records = [label(views, "a", ts) | {"offset": ts} for ts in times]
    memory.add(batch_of(views, records))
    assert memory.evict(1000).rows == 3
    assert rows_of(memory, [snapshot(("a", 0))])[0]["impression_delay_ms"] == 0


def test_an_empty_block_and_an_empty_memory_give_typed_empty_columns() -> None:
    assert joined([]) == []
    assert joined([], snapshot(), snapshot(("a", 0)))[0]["impressed"] == 0


def test_reach_says_how_far_each_event_must_be_read() -> None:
    reach = LabelMemory(STREAM, EVENTS).reach_ms
    assert dict(reach) == {"views": 4, "plays": 13, "likes": 10}


tips = Event("tips", fields={"cents": Field(int, required=False)})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (longest(plays, "play_ms", "x", window=1, carry=("query",)), "'query' of 'plays'"),
        (longest(tips, "cents", "x", window=1), "give the field a default"),
    ],
)
def test_a_label_of_what_cannot_be_kept_is_refused(bad: Label, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelMemory(SampleStream("s", [bad]), EVENTS)


def test_a_batch_that_the_stream_cannot_use_is_refused() -> None:
    memory = LabelMemory(STREAM, EVENTS)
    batch = batch_of(likes, [label(likes, "a", 1, offset=0)])
    with pytest.raises(ValueError, match="does not read 'shares'"):
        memory.add(LabelBatch("shares", batch.ts_ms, batch.offsets, batch.positions,
                              batch.request_ids, batch.item_ids))  # fmt: skip
    with pytest.raises(ValueError, match="'converted' is missing"):
        memory.add(LabelBatch("plays", batch.ts_ms, batch.offsets, batch.positions,
                              batch.request_ids, batch.item_ids))  # fmt: skip
    with pytest.raises(ValueError, match="positions has 1 rows, ts_ms has 0"):
        LabelBatch("likes", batch.ts_ms[:0], batch.offsets[:0], batch.positions,
                   batch.request_ids, batch.item_ids)  # fmt: skip


def test_a_waiting_impression_takes_less_than_sixty_bytes() -> None:
    """Ids of 30 bytes, ten impressions a request, every item its own: the strings dominate."""
    memory = LabelMemory(STREAM, EVENTS)
    size, per_request = 200_000, 10
    for start in range(0, size, 10_000):
        numbers = np.arange(start, start + 10_000)
        records = pa.array([f"request-{n // per_request:022d}" for n in numbers])
        items = pa.array([f"item-{n:025d}" for n in numbers])
        ts = 1_700_000_000_000 + numbers // 20
        positions = (numbers % per_request).astype(np.int32)
        memory.add(LabelBatch("views", ts, numbers, positions, records, items))
    memory.find(pa.array([], type=pa.string()), np.zeros(0, dtype=np.int64))
    assert memory.rows == size
    assert memory.nbytes / size < 60


def test_a_total_has_no_record_to_carry_from() -> None:
    summed = total(plays, "play_ms", "x", window=1)
    with pytest.raises(ValueError, match="no one record"):
        replace(summed, carry=("price",))


def test_a_label_may_not_take_a_column_of_the_join() -> None:
    with pytest.raises(ValueError, match="impressed"):
        SampleStream("s", [first(plays, "impressed", window=1)])
