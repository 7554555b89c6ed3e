"""Every event of the preset is documented by an example that counts, and says what it means."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from tenuto.features.events import Event, Field
from tenuto.presets import video
from tenuto.streams.codec import EventCodec

BASE: dict[str, Any] = {
    "request_id": "r-7f3a",
    "user_id": "u-42",
    "query": "lofi piano",
    "item_id": "v-1001",
    "position": 3,
    "ts": 1_650_000_030_000,
}
EVENTS = pytest.mark.parametrize("event", video.events, ids=lambda event: event.name)


def example_of(event: Event) -> dict[str, Any]:
    return {**BASE, **event.example}


@EVENTS
def test_an_example_gives_every_field_that_must_be_there(event: Event) -> None:
    needed = {name for name, field in event.all_fields.items() if field.required}
    assert needed <= set(example_of(event)) <= set(event.all_fields)


@EVENTS
def test_an_example_is_accepted_and_read_back_as_it_was_written(event: Event) -> None:
    codec = EventCodec(event)
    example = example_of(event)
    decoded = codec.decode([codec.encode(example)])
    assert decoded.faults == {}
    columns = codec.columns(decoded.rows)
    for name, value in example.items():
        column = columns[name]
        assert (column.tolist() if isinstance(column, np.ndarray) else column) == [value]


@EVENTS
def test_an_event_and_its_fields_are_documented(event: Event) -> None:
    assert event.doc
    assert [name for name, field in event.all_fields.items() if not field.doc] == []


@EVENTS
def test_a_record_may_lack_what_need_not_be_given(event: Event) -> None:
    codec = EventCodec(event)
    example = {n: v for n, v in example_of(event).items() if event.all_fields[n].required}
    decoded = codec.decode([orjson.dumps(example)])
    assert decoded.faults == {}
    assert codec.columns(decoded.rows)["position"].tolist() == [-1]  # type: ignore[union-attr]


@EVENTS
@pytest.mark.parametrize("beyond", [-1, 1])
def test_a_value_beyond_its_range_is_refused_by_the_fields_name(event: Event, beyond: int) -> None:
    codec = EventCodec(event)
    for name, field in event.all_fields.items():
        limit = field.le if beyond > 0 else field.ge
        if limit is None:
            continue
        decoded = codec.decode([orjson.dumps({**example_of(event), name: limit + beyond})])
        assert decoded.faults[0].subject == name


@EVENTS
def test_a_row_of_an_interaction_log_becomes_records_that_are_accepted(event: Event) -> None:
    row = {**BASE, "play_ms": 70_000, "duration_ms": 65_000}
    reports = event.reports(row) if event.reports else [{}]
    codec = EventCodec(event)
    values = [codec.encode({**BASE, **report}) for report in reports]
    assert codec.decode(values).faults == {}


def test_the_reports_of_a_play_add_up_to_it() -> None:
    row = {**BASE, "play_ms": 70_000, "duration_ms": 65_000}
    assert video.plays.reports is not None
    reports = video.plays.reports(row)
    assert sum(report["play_ms_delta"] for report in reports) == 70_000
    for flag in ("first", "finished", "converted"):
        assert sum(report[flag] for report in reports) == 1
    assert [r["ts"] - BASE["ts"] for r in reports] == [r["play_ms"] for r in reports]


def test_a_bare_type_stands_for_a_required_field() -> None:
    assert Event("shares", fields={"channel": str}).all_fields["channel"] == Field(str)
