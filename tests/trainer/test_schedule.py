"""When rows are scored and learnt: however rows came, and never by a label too early."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_rows import Asked, batch_of, spec_with

from tenuto.trainer.rows import Rows, rows_of
from tenuto.trainer.schedule import (
    AsOfSchedule,
    LateRequestError,
    Learn,
    LiveSchedule,
    Schedule,
    Score,
)

HORIZON_MS, LATENESS_MS = 7_000, 3_000
Step = tuple[str, list[tuple[int, int]]]


@st.composite
def sequences(draw: st.DrawFn) -> Rows:
    """Rows in canonical order whose requests are up to the lateness before their arrival."""
    arrival_ms, asked = 100_000, []
    for offset in range(draw(st.integers(1, 25))):
        arrival_ms += draw(st.sampled_from([0, 0, 400, 1000, 2500, 9000]))
        late_ms = draw(st.sampled_from([0, 0, 100, LATENESS_MS, -1000]))
        asked.append(Asked(offset, arrival_ms, draw(st.integers(1, 3)), arrival_ms - late_ms))
    return rows_of(batch_of(asked), spec_with())


def steps(schedule: Schedule, parts: list[Rows]) -> list[Step]:
    found = [step for part in parts for step in schedule.take(part)]
    found += schedule.end()
    return [(type(step).__name__, keys(step.rows)) for step in found]


def keys(rows: Rows) -> list[tuple[int, int]]:
    return list(zip(rows.offset.tolist(), rows.item_index.tolist(), strict=True))


def cut(rows: Rows, places: list[int]) -> list[Rows]:
    """The rows in parts that end where a second does."""
    seconds = rows.arrival_ms // 1000
    ends = [0, *(np.flatnonzero(np.diff(seconds)) + 1).tolist(), len(rows)]
    edges = sorted({0, len(rows), *(ends[place % len(ends)] for place in places)})
    return [rows.slice(a, b) for a, b in pairwise(edges)]


def as_of(scored_to_ms: int = 0, batch_rows: int = 3) -> AsOfSchedule:
    return AsOfSchedule(
        batch_rows,
        horizon_ms=HORIZON_MS,
        lateness_ms=LATENESS_MS,
        scored_to_ms=scored_to_ms,
    )


@given(sequences(), st.integers(1, 6))
def test_no_row_is_scored_by_weights_that_knew_a_label_too_early(rows: Rows, size: int) -> None:
    asked_ms = dict(zip(keys(rows), rows.request_ts_ms.tolist(), strict=True))
    known, scored = -1, []
    for kind, batch in steps(as_of(batch_rows=size), [rows]):
        if kind == "Score":
            scored += batch
            assert all(known + HORIZON_MS < asked_ms[key] for key in batch)
        else:
            known = max(known, *(asked_ms[key] for key in batch))
    assert scored == keys(rows)


@given(sequences(), st.integers(1, 6))
def test_what_was_known_is_learnt(rows: Rows, size: int) -> None:
    found = steps(as_of(batch_rows=size), [rows])
    second_ms = dict(zip(keys(rows), (rows.arrival_ms // 1000 * 1000).tolist(), strict=True))
    asked_ms = dict(zip(keys(rows), rows.request_ts_ms.tolist(), strict=True))
    batches = [batch for kind, batch in found if kind == "Learn"]
    assert [key for batch in batches for key in batch] == keys(rows)
    learnt = 0
    for kind, batch in found:
        learnt += kind == "Learn"
        if kind == "Score" and learnt < len(batches) - 1:
            waits_for = max(asked_ms[key] for key in batches[learnt]) + HORIZON_MS + LATENESS_MS
            assert waits_for >= second_ms[batch[-1]]


@given(sequences(), st.lists(st.integers(0, 99), max_size=5))
def test_steps_do_not_depend_on_how_rows_came(rows: Rows, places: list[int]) -> None:
    assert steps(as_of(), cut(rows, places)) == steps(as_of(), [rows])
    assert steps(LiveSchedule(3), cut(rows, places)) == steps(LiveSchedule(3), [rows])


@given(sequences(), st.integers(0, 99), st.integers(0, 99))
def test_going_on_from_a_point_repeats_no_score_and_no_batch(
    rows: Rows, place: int, later: int
) -> None:
    point_ms = int(rows.arrival_ms[place % len(rows)]) // 1000 * 1000
    before = int((rows.arrival_ms // 1000 * 1000).searchsorted(point_ms))
    schedule = as_of()
    first = [*schedule.take(rows.slice(0, before)), *schedule.reach(point_ms)]
    whole = [*first, *schedule.take(rows.slice(before, len(rows))), *schedule.end()]

    learnt = sum(len(step.rows) for step in first if isinstance(step, Learn))
    rest = rows.slice(learnt, len(rows))
    again = steps(as_of(scored_to_ms=point_ms), cut(rest, [later]))
    assert again == [(type(step).__name__, keys(step.rows)) for step in whole[len(first) :]]


def test_live_learns_each_batch_at_once_and_the_short_one_at_the_end() -> None:
    rows = rows_of(batch_of([Asked(n, 1000 * n, 2) for n in range(4)]), spec_with())
    schedule = LiveSchedule(3)
    assert [len(step.rows) for step in schedule.take(rows)] == [4, 4]
    assert list(schedule.end()) == []
    short = rows.slice(0, 2)
    assert list(schedule.take(short)) == []
    assert [(type(step), len(step.rows)) for step in schedule.end()] == [(Learn, 2)]


def test_a_batch_is_learnt_before_the_first_second_in_which_its_labels_are_known() -> None:
    first = Asked(0, 100_000, 3)
    known_ms = 100_000 + HORIZON_MS + LATENESS_MS
    for second_ms, expected in ((known_ms, [Score, Score]), (known_ms + 1000, [Score, Learn])):
        rows = rows_of(batch_of([first, Asked(1, second_ms, 3)]), spec_with())
        found = list(as_of().take(rows))
        assert [type(step) for step in found][:2] == expected


def test_a_request_that_took_longer_than_it_can_is_refused() -> None:
    rows = rows_of(batch_of([Asked(4, 10_000, 1, 10_000 - LATENESS_MS - 1)], 2), spec_with())
    with pytest.raises(LateRequestError, match=r"snapshots\[2\]@4: arrived 3001 ms after"):
        list(as_of().take(rows))
