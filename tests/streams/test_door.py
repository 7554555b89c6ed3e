from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2
from numpy.typing import NDArray

from tenuto.features.rules import TimeRules
from tenuto.presets.video_events import plays
from tenuto.streams.codec import EventCodec
from tenuto.streams.door import NO_ARRIVAL, Accepted, Limits, judge
from tenuto.streams.heartbeats import heartbeat

N = 4
HERE = 2
T0 = 1_650_000_000_000
CODEC = EventCodec(plays)
LIMITS = Limits(n_partitions=N, rules=TimeRules(), max_record_bytes=2_000)
HOME = {
    partition: [f"r{n}" for n in range(400) if (murmur2(b"r%d" % n) & 0x7FFFFFFF) % N == partition]
    for partition in range(N)
}
HEARTBEAT = heartbeat()
END = heartbeat(end=True)


@dataclass(eq=False)
class Columns:
    """Records as the door takes them."""

    values: Sequence[bytes | None]
    timestamps_ms: NDArray[np.int64]
    offsets: NDArray[np.int64]
    headers: Sequence[Sequence[tuple[str, bytes]]]
    topic: str = "plays"
    partition: int = HERE

    @property
    def keys(self) -> Sequence[bytes | None]:
        return [b"k%d" % offset for offset in self.offsets]


Record = tuple[bytes | None, int, Sequence[tuple[str, bytes]]]


def columns(records: Sequence[Record], first_offset: int = 1_881) -> Columns:
    return Columns(
        values=[value for value, _, _ in records],
        timestamps_ms=np.array([stamp for _, stamp, _ in records], dtype=np.int64),
        offsets=np.arange(first_offset, first_offset + len(records), dtype=np.int64),
        headers=[headers for _, _, headers in records],
    )


def play(*, request: int = 0, partition: int = HERE, **changes: Any) -> bytes:
    record = {
        "request_id": HOME[partition][request],
        "user_id": "u1",
        "query": "lofi",
        "item_id": "i1",
        "position": 0,
        "ts": T0,
        "started_ts": T0,
        "play_ms": 5,
        "play_ms_delta": 5,
        **changes,
    }
    return orjson.dumps(record)


def judged(*records: Record, arrival_before: int = NO_ARRIVAL) -> Accepted:
    return judge(CODEC, LIMITS, columns(records), arrival_before)


def reasons(accepted: Accepted) -> list[str]:
    return [str(refusal.reason) for refusal in accepted.refused]


def test_what_counts_comes_out_as_columns_with_its_offsets_times_and_arrivals() -> None:
    accepted = judged(
        (play(request=0, position=3), T0, ()),
        (b"{", T0 + 9, ()),
        (play(request=1, position=None), T0 + 5, ()),
    )
    assert accepted.columns["request_id"] == HOME[HERE][:2]
    assert accepted.columns["position"].tolist() == [3, -1]  # type: ignore[union-attr]
    assert accepted.offsets.tolist() == [1_881, 1_883]
    assert accepted.timestamps_ms.tolist() == [T0, T0 + 5]
    assert accepted.arrivals.tolist() == [T0, T0 + 9]
    assert accepted.arrival_after == T0 + 9
    assert len(accepted) == 2


def test_a_refusal_names_field_value_place_and_mend_and_holds_the_untouched_record() -> None:
    body = play(play_ms=-3)
    (refusal,) = judged((body, T0, ())).refused
    assert refusal.text == "play_ms: -3 in plays[2]@1881: must be >= 0"
    assert (refusal.topic, refusal.partition, refusal.offset) == ("plays", 2, 1_881)
    assert (refusal.value, refusal.key, refusal.timestamp_ms) == (body, b"k1881", T0)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (None, "empty"),
        (b"x" * 2_001, "oversized"),
        (play(item_id="i" * 1_900), "oversized"),
        (b"not json", "malformed"),
        (play(v=2), "version"),
        (play(play_ms=-3), "field"),
        (play(partition=3), "misplaced"),
        (play(ts=T0 - 300_001), "late"),
        (play(ts=T0 + 5_001), "future"),
        (play(partition=3, ts=0), "misplaced"),
    ],
)
def test_a_bad_record_is_refused_with_its_reason_and_its_neighbours_count(
    body: bytes | None, reason: str
) -> None:
    good = (play(), T0, ())
    accepted = judged(good, (body, T0, ()), good)
    assert reasons(accepted) == [reason]
    assert accepted.offsets.tolist() == [1_881, 1_883]


@pytest.mark.parametrize(
    ("age_ms", "counts"), [(300_000, 1), (300_001, 0), (-5_000, 1), (-5_001, 0)]
)
def test_time_is_judged_by_the_records_own_arrival(age_ms: int, counts: int) -> None:
    # Of the record before it, and not of the one after.
    accepted = judged((play(), T0, ()), (play(ts=T0 - age_ms), T0 - 50, ()), (b"", T0 + 10**9, ()))
    assert len(accepted) == 1 + counts


def test_arrival_before_the_batch_counts() -> None:
    assert reasons(judged((play(), T0, ()), arrival_before=T0 + 300_001)) == ["late"]


def test_a_misplaced_record_is_told_where_it_belongs() -> None:
    (refusal,) = judged((play(partition=3), T0, ())).refused
    assert "must be in partition 3 of 4" in refusal.text
    assert refusal.text.startswith(f"request_id: {HOME[3][0]} in plays[2]@1881")


def test_heartbeats_only_move_arrival() -> None:
    accepted = judged(
        (*HEARTBEAT[:1], T0 + 300_001, HEARTBEAT.headers),
        (None, T0 + 300_002, HEARTBEAT.headers),
        (play(), T0, ()),
    )
    assert accepted.heartbeats == 2
    assert reasons(accepted) == ["late"]
    assert accepted.arrival_after == T0 + 300_002
    assert not accepted.ended


def test_an_end_mark_is_seen() -> None:
    assert judged((END.value, T0, END.headers)).ended


def test_a_record_with_a_body_is_no_heartbeat_whatever_its_headers_say() -> None:
    assert len(judged((play(), T0, HEARTBEAT.headers))) == 1


def test_refused_records_move_arrival_too() -> None:
    assert judged((b"{", T0, ()), arrival_before=5).arrival_after == T0


def test_an_empty_batch_changes_nothing() -> None:
    accepted = judged(arrival_before=T0)
    assert (len(accepted), accepted.refused, accepted.arrival_after) == (0, [], T0)


GOOD = [play(request=n, position=n) for n in range(3)]
UNUSUAL = [
    play(query="夜想曲"),
    play(position=None),
    play(partition=0),
    play(ts=T0 + 400_000),
    play(play_ms=-1),
    play(v=9),
    b"",
    b"{",
    b"x" * 2_001,
    b"\xff",
    GOOD[0] + b"," + GOOD[1],
    GOOD[0][:40],
    GOOD[0][40:],
    b"[" + GOOD[0],
    GOOD[1] + b"]",
]
records = st.tuples(
    st.sampled_from(GOOD) | st.sampled_from([*UNUSUAL, None]) | st.binary(max_size=30),
    st.integers(T0 - 400_000, T0 + 400_000) | st.just(-1),
    st.sampled_from([(), HEARTBEAT.headers, END.headers]),
)


@settings(deadline=None)
@given(st.lists(records, max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_the_verdict_does_not_depend_on_how_batches_are_cut(
    batch: list[Record], cuts: list[int]
) -> None:
    whole = judge(CODEC, LIMITS, columns(batch), T0)
    bounds = sorted({0, len(batch), *(cut for cut in cuts if cut < len(batch))})
    arrival, parts = T0, []
    for start, end in pairwise(bounds):
        part = judge(CODEC, LIMITS, columns(batch[start:end], 1_881 + start), arrival)
        parts.append(part)
        arrival = part.arrival_after
    assert arrival == whole.arrival_after
    assert [r for part in parts for r in part.refused] == whole.refused
    assert sum(part.heartbeats for part in parts) == whole.heartbeats
    assert any(part.ended for part in parts) == whole.ended
    for name in ("offsets", "timestamps_ms", "arrivals"):
        joined = [value for part in parts for value in getattr(part, name).tolist()]
        assert joined == getattr(whole, name).tolist()
    for name, column in whole.columns.items():
        assert [v for part in parts for v in part.columns[name]] == list(column)


def mutated(body: bytes, at: int, byte: int, how: int) -> bytes:
    at %= len(body)
    return (
        body[:at] + bytes([byte]) + body[at + 1 :],
        body[:at] + body[at + 1 :],
        body[:at] + bytes([byte]) + body[at:],
        body[:at],
        body[at:],
        body + body[at:],
    )[how]


garbage = st.binary(max_size=200) | st.builds(
    mutated, st.sampled_from(GOOD), st.integers(0, 500), st.integers(0, 255), st.integers(0, 5)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), garbage), max_size=12))
def test_garbage_at_the_door_is_refused_and_every_good_record_beside_it_counts(
    stream: list[tuple[bool, bytes]],
) -> None:
    batch = [GOOD[at % 3] if good else body for at, (good, body) in enumerate(stream)]
    accepted = judged(*((body, T0, ()) for body in batch))
    outcome = Counter(accepted.offsets.tolist()) + Counter(r.offset for r in accepted.refused)
    assert outcome == Counter(range(1_881, 1_881 + len(batch)))
    good_at = [1_881 + at for at, (good, _) in enumerate(stream) if good]
    assert set(good_at) <= set(accepted.offsets.tolist())
    assert [r.value for r in accepted.refused] == [
        batch[r.offset - 1_881] for r in accepted.refused
    ]
    assert all(r.text.isprintable() and f"plays[2]@{r.offset}" in r.text for r in accepted.refused)
