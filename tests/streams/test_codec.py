from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenuto.features.events import MAX_INT, Event, Field
from tenuto.presets.video_events import events, impressions, plays
from tenuto.streams.codec import MAX_NESTING, EventCodec, Fault, InvalidEventError
from tenuto.streams.refusals import Reason

SEEN: dict[str, Any] = {
    "request_id": "r1",
    "user_id": "u1",
    "query": "lofi",
    "item_id": "i1",
    "position": 3,
    "ts": 1_650_000_000_000,
}
PLAYED = {**SEEN, **plays.example}
EVERYTHING = Event(
    "ratings",
    fields={
        "stars": Field(float, ge=0, le=5),
        "comment": Field(str, max_length=10, required=False, default="-"),
        "weight": Field(float, required=False),
        "votes": Field(int),
        "skipped": Field(int, required=False, default=7),
        "shared": Field(bool, required=False, default=True),
        "class": Field(int, required=False),
    },
    version=3,
)
RATED = {**SEEN, "stars": 4.5, "votes": 2}


def faults_of(event: Event, *values: bytes) -> dict[int, Fault]:
    return EventCodec(event).decode(values).faults


def fault_of(event: Event, value: bytes | dict[str, Any]) -> Fault:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return faults_of(event, body)[0]


def columns_of(event: Event, *records: dict[str, Any]) -> dict[str, Any]:
    codec = EventCodec(event)
    decoded = codec.decode([json.dumps(record).encode() for record in records])
    assert not decoded.faults
    return codec.columns(decoded.rows)


@pytest.mark.parametrize("event", events, ids=lambda event: event.name)
def test_each_declared_example_is_read_as_written(event: Event) -> None:
    record = {**SEEN, **event.example}
    codec = EventCodec(event)
    columns = codec.columns(codec.decode([codec.encode(record)]).rows)
    assert {name: columns[name][0] for name in record} == record


def test_columns_are_lists_of_strings_and_typed_arrays() -> None:
    columns = columns_of(EVERYTHING, RATED, {**RATED, "comment": "good", "votes": 3})
    assert columns["comment"] == ["-", "good"]
    assert columns["votes"].dtype == np.int64
    assert columns["stars"].dtype == np.float64
    assert columns["shared"].dtype == np.bool_


def test_no_records_are_columns_of_no_length() -> None:
    columns = columns_of(EVERYTHING)
    assert columns["request_id"] == []
    assert columns["votes"].shape == (0,)
    assert columns["votes"].dtype == np.int64


@pytest.mark.parametrize("absent", [{}, dict.fromkeys(("skipped", "shared", "weight", "position"))])
def test_what_may_be_absent_may_also_be_null_and_reads_as_its_default(
    absent: dict[str, None],
) -> None:
    record = {name: value for name, value in RATED.items() if name != "position"}
    columns = columns_of(EVERYTHING, {**record, **absent})
    assert columns["position"].tolist() == [-1]
    assert columns["skipped"].tolist() == [7]
    assert columns["shared"].tolist() == [True]
    assert columns["class"].tolist() == [-1]
    assert math.isnan(columns["weight"][0])


def test_unknown_fields_are_never_an_error() -> None:
    assert not faults_of(impressions, json.dumps({**SEEN, "device": {"os": [1, None]}}).encode())


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("play_ms", -3, "must be >= 0"),
        ("play_ms", 10**10, "must be <= 86400000"),
        ("play_ms", 1.5, "must be an integer"),
        ("play_ms", 1.0, "must be an integer"),
        ("play_ms", True, "must be an integer"),
        ("play_ms", "3", "must be an integer"),
        ("play_ms", None, "must be an integer"),
        ("play_ms", [1], "must be an integer"),
        ("ts", -1, "must be >= 0"),
        ("ts", MAX_INT + 1, f"must be <= {MAX_INT}"),
        ("ts", 10**30, "must be"),
        ("position", -1, "must be >= 0"),
        ("position", 1e9, "must be an integer"),
        ("finished", 1, "must be true or false"),
        ("finished", "true", "must be true or false"),
        ("item_id", "", "must have at least 1 character"),
        ("item_id", 7, "must be a string"),
        ("user_id", "u" * 257, "must have at most 256 characters (has 257)"),
        ("query", None, "must be a string"),
    ],
)
def test_a_fault_names_the_field_the_value_and_the_mend(field: str, value: Any, rule: str) -> None:
    fault = fault_of(plays, {**PLAYED, field: value})
    assert (fault.reason, fault.subject) == (Reason.FIELD, field)
    assert rule in fault.rule
    assert fault.value == json.dumps(value) or fault.value.endswith("…")


def test_integers_without_a_declared_range_stay_far_from_64_bits() -> None:
    assert not faults_of(EVERYTHING, json.dumps({**RATED, "votes": -MAX_INT}).encode())
    for votes in (MAX_INT + 1, -MAX_INT - 1):
        assert fault_of(EVERYTHING, {**RATED, "votes": votes}).subject == "votes"


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"nan"])
def test_numbers_are_finite(number: bytes) -> None:
    value = json.dumps(RATED).encode().replace(b"4.5", number)
    assert fault_of(EVERYTHING, value).reason in (Reason.MALFORMED, Reason.FIELD)


def test_an_absent_field_is_named() -> None:
    record = {name: value for name, value in SEEN.items() if name != "user_id"}
    assert fault_of(impressions, record)[:3] == (Reason.FIELD, "user_id", "(absent)")


@pytest.mark.parametrize("version", [4, 0, -1, "1", 1.5, True, None, [1]])
def test_a_version_that_the_declaration_does_not_know_is_refused(version: Any) -> None:
    # A newer version may mean something else by any field, so nothing else of it is judged.
    fault = fault_of(EVERYTHING, {"v": version, "stars": "many"})
    assert (fault.reason, fault.subject) == (Reason.VERSION, "v")


def test_older_versions_are_read() -> None:
    assert not faults_of(EVERYTHING, *(orjson.dumps({**RATED, "v": v}) for v in (1, 2, 3)))


@pytest.mark.parametrize(
    "value",
    [
        b"{",
        b"[]",
        b"null",
        b"7",
        b" ",
        b"\x00",
        b'\xef\xbb\xbf{"a":1}',
        orjson.dumps(SEEN)[:-1],
        orjson.dumps(SEEN) + b"}",
        orjson.dumps(SEEN) + b"," + orjson.dumps(SEEN),
        orjson.dumps(SEEN) + orjson.dumps(SEEN),
        orjson.dumps([SEEN]),
        orjson.dumps(SEEN).replace(b"lofi", b"\xff"),
        orjson.dumps(SEEN).replace(b"lofi", b"\xed\xa0\x80"),
        orjson.dumps(SEEN).replace(b"lofi", b"\\ud800"),
        orjson.dumps(SEEN).replace(b"lofi", b"\\udc00x"),
        orjson.dumps({**SEEN, "x": "~"}).replace(b"~", b"\xff"),
    ],
)
def test_what_is_not_one_json_object_in_utf_8_is_malformed(value: bytes) -> None:
    assert fault_of(impressions, value).reason is Reason.MALFORMED


def test_an_empty_body_is_refused_as_empty() -> None:
    assert fault_of(impressions, b"").reason is Reason.EMPTY


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_judged_by_the_bytes_and_not_by_the_callers_stack(
    opening: bytes, closing: bytes
) -> None:
    def nested(depth: int) -> bytes:
        inner = opening * (depth - 1) + b"1" + closing * (depth - 1)
        return orjson.dumps({**SEEN, "x": 0}).replace(b'"x":0', b'"x":' + inner)

    assert not faults_of(impressions, nested(MAX_NESTING))
    for depth in (MAX_NESTING + 1, 100_000):
        fault = fault_of(impressions, nested(depth))
        assert (fault.reason, fault.rule) == (
            Reason.MALFORMED,
            f"must not be nested deeper than {MAX_NESTING}",
        )


def test_brackets_in_strings_and_side_by_side_are_not_nesting() -> None:
    record = {**SEEN, "query": '["\\' * 100, "x": [[], {}] * 500}
    assert not faults_of(impressions, json.dumps(record).encode())


def test_a_shown_value_is_short_and_printable() -> None:
    fault = fault_of(impressions, {**SEEN, "item_id": "\x1b[31m" + "é" * 10**6})
    assert len(fault.value) == 60
    assert fault.value.isprintable()


def test_a_bad_record_leaves_its_neighbours_alone() -> None:
    values = [orjson.dumps({**SEEN, "position": n}) for n in range(50)]
    for at in (0, 17, 49):
        values[at] = b'{"request_id":"'
    codec = EventCodec(impressions)
    decoded = codec.decode(values)
    assert sorted(decoded.faults) == [0, 17, 49]
    kept = [n for n in range(50) if n not in decoded.faults]
    assert codec.columns(decoded.rows)["position"].tolist() == kept  # type: ignore[union-attr]


def test_two_halves_of_a_record_are_two_bad_records() -> None:
    for text in ("lofi", "夜想曲"):
        whole = json.dumps({**SEEN, "query": text}, ensure_ascii=False).encode()
        for cut in range(1, len(whole)):
            assert sorted(faults_of(impressions, whole[:cut], whole[cut:])) == [0, 1]


short_texts = st.text(alphabet='aé"\\\ud800\x00', max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | short_texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(short_texts, inner, max_size=2),
    max_leaves=3,
)


@given(st.dictionaries(st.sampled_from([*EVERYTHING.all_fields, "v"]), json_values, max_size=4))
def test_whatever_a_record_says_it_is_decoded_or_has_a_fault_with_a_rule(
    changes: dict[str, Any],
) -> None:
    value = json.dumps({**RATED, **changes}).encode()
    codec = EventCodec(EVERYTHING)
    decoded = codec.decode([value])
    if decoded.faults:
        fault = decoded.faults[0]
        assert fault.rule
        # Only a value that JSON itself does not have (nan, a lone surrogate) is no field's fault.
        assert (
            fault.reason is not Reason.MALFORMED
            or b"NaN" in value
            or b"\\u" in value
            or (b"Infinity" in value)
        )
    else:
        for name, column in codec.columns(decoded.rows).items():
            assert len(column) == 1, name


@given(st.lists(st.binary(max_size=40) | st.just(orjson.dumps(SEEN)), max_size=8))
def test_records_are_decoded_in_a_batch_as_they_are_alone(values: list[bytes]) -> None:
    codec = EventCodec(impressions)
    together = codec.decode(values)
    alone = [codec.decode([value]) for value in values]
    assert together.rows == [row for decoded in alone for row in decoded.rows]
    assert together.faults == {
        at: decoded.faults[0] for at, decoded in enumerate(alone) if decoded.faults
    }


def test_encoding_refuses_what_decoding_would() -> None:
    codec = EventCodec(plays)
    with pytest.raises(InvalidEventError, match=r"play_ms: -3 in plays: must be >= 0"):
        codec.encode({**PLAYED, "play_ms": -3})
    with pytest.raises(InvalidEventError, match="surrogates"):
        codec.encode({**PLAYED, "query": "\ud800"})
    with pytest.raises(InvalidEventError, match="weight: nan in ratings: must be finite"):
        EventCodec(EVERYTHING).encode({**RATED, "weight": math.nan})


def test_encoding_without_validation_writes_what_it_is_given() -> None:
    value = EventCodec(plays).encode({"play_ms": -3}, validate=False)
    assert orjson.loads(value) == {"play_ms": -3}


def test_encoding_takes_numpy_numbers_and_names_the_version() -> None:
    value = EventCodec(EVERYTHING).encode({**RATED, "votes": np.int64(5), "stars": np.float64(2)})
    assert orjson.loads(value) == {**RATED, "votes": 5, "stars": 2.0, "v": 3}


def test_a_range_beyond_64_bits_is_a_wrong_declaration() -> None:
    with pytest.raises(ValueError, match=r"big\.n: range .* must fit into int64"):
        EventCodec(Event("big", fields={"n": Field(int, le=2**64)}))
