"""What a snapshot record may hold: each verdict follows from its bytes alone."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenuto.snapshot.nesting import MAX_NESTING, is_nested_too_deep
from tenuto.snapshot.record import Snapshot, SnapshotError, decode, encode


def snapshot(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "request_id": "r", "user_id": "u", "query": "", "request_ts": 5, "as_of": 5, "items": ["a"],
        "columns": [["ctr", "00"]], "values": np.zeros(1, "<f4").tobytes(), "states": b"\0",
        "layout": "l", "v": 1,
        "log": {"topics": ["t"], "partitions": 1, "incarnations": b"", "origin": [0], "next": [1],
                "batches": []},
    }  # fmt: skip
    return msgspec.msgpack.encode(fields | changes)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_fields_that_are_not_known_are_passed_over() -> None:
    assert decode(snapshot(later={"a": [1]})).request_id == "r"


@pytest.mark.parametrize("depth", [MAX_NESTING, 400, 5_000])
def test_what_is_nested_too_deep_is_refused_whatever_the_stack(depth: int) -> None:
    value = snapshot() if depth == 0 else snapshot(later=None)
    # The map's own level is one.
    value = value[:-1] + b"\x91" * depth + b"\x01"
    with pytest.raises(SnapshotError, match="nested deeper than 200"):
        decode(value)


def test_what_is_nested_just_deep_enough_is_not() -> None:
    assert decode(snapshot(later=nested(MAX_NESTING - 1))).items == ["a"]


@pytest.mark.parametrize("name", ["request_ts", "as_of"])
@pytest.mark.parametrize("ts", [-1, 2**48 + 1, 2**63, 2**64 - 1])
def test_a_time_that_no_sample_can_hold_is_refused(name: str, ts: int) -> None:
    # as_of was not looked at, and 2**63 ended the joiner again and again.
    with pytest.raises(SnapshotError, match=f"{name}: {ts}"):
        decode(snapshot(**{name: ts}))


@pytest.mark.parametrize(
    "names",
    [("a", "a"), ("user_id",), ("snapshot_offset",), ("served_ctr",), ("a", "a__state"), ("",)],
    ids=str,
)
def test_columns_that_would_take_a_samples_own_names_are_refused(names: tuple[str, ...]) -> None:
    columns = [[name, "00"] for name in names]
    values = {"values": bytes(4 * len(names)), "states": bytes(len(names))}
    with pytest.raises(SnapshotError, match=r"columns: .* name of its own"):
        decode(snapshot(columns=columns, **values))


def test_log_positions_beyond_64_bits_are_refused() -> None:
    log = {"topics": ["t"], "partitions": 1, "incarnations": b"", "origin": [0], "batches": []}
    with pytest.raises(SnapshotError, match="log"):
        decode(snapshot(log=log | {"next": [2**63]}))


def test_context_is_values_and_lists_of_them() -> None:
    given_context = {"author": "x", "recall": [0.5, None], "n": 3, "yes": True}
    assert decode(snapshot(context=given_context)).context == given_context
    with pytest.raises(SnapshotError, match="context"):
        decode(snapshot(context={"deep": [[1]]}))


def test_what_is_written_is_read_without_a_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    found = decode(snapshot(context={"recall": [0.5]}))
    assert isinstance(found, Snapshot)
    monkeypatch.setattr("tenuto.snapshot.record.is_nested_too_deep", lambda _: pytest.fail("slow"))
    assert decode(encode(found)) == found


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    | st.binary() | st.builds(msgspec.msgpack.Ext, st.integers(-128, 127), st.binary(max_size=70)),
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(), inner, max_size=20),
    max_leaves=60,
)  # fmt: skip


def depth_of(value: Any) -> int:
    if not isinstance(value, list | dict) or not value:
        return 0
    return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value))


@given(plain, st.sampled_from([MAX_NESTING - 8, MAX_NESTING - 2, MAX_NESTING]))
def test_nesting_is_that_of_the_value(value: Any, around: int) -> None:
    inner = depth_of(value)
    for _ in range(around):
        value = [1, value]
    encoded = msgspec.msgpack.encode(value)
    assert is_nested_too_deep(encoded) == (inner + around > MAX_NESTING)
    assert not is_nested_too_deep(encoded[: len(encoded) // 2]) or inner + around > MAX_NESTING
