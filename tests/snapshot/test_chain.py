"""Samples records against what was read before."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_log import Log, Shown, logs, records_of, rows_of

from tenuto.snapshot.chain import Chain, Kind, new_rows
from tenuto.snapshot.sample_record import Interval, decode_rows


@given(st.data())
def test_any_chain_between_doubles_and_zombies_gives_each_row_once_in_order(
    data: st.DataObject,
) -> None:
    log = data.draw(logs())
    chain, got = Chain(), []
    for interval, value in data.draw(records_of(log)):
        verdict = chain.take(interval)
        if verdict.kind is Kind.NEW and value:
            rows = new_rows(decode_rows(value), interval, verdict.since)
            got += rows.column("request_id").to_pylist()
    assert got == log.request_ids
    assert chain.ended
    assert chain.position == log.end


def test_a_chain_without_a_start_begins_at_its_first_record() -> None:
    chain = Chain()
    assert chain.take(Interval(7, 9, 100)).kind is Kind.NEW
    assert chain.position == 9


def test_a_record_beyond_is_a_gap_until_what_is_missing_comes() -> None:
    chain = Chain(5)
    assert chain.take(Interval(6, 9, 100)).kind is Kind.GAP
    assert chain.position == 5
    assert chain.take(Interval(3, 6, 100)).since == 5
    assert chain.take(Interval(6, 9, 100)).kind is Kind.NEW
    assert chain.gaps == 1


def test_a_progress_record_that_reaches_no_further_still_moves_arrival() -> None:
    chain = Chain(5, arrival_ms=100)
    assert chain.take(Interval(5, 5, 100)).kind is Kind.OLD
    assert chain.take(Interval(5, 5, 200)).kind is Kind.NEW
    assert chain.arrival_ms == 200


def test_an_end_mark_that_reaches_no_further_ends_the_chain() -> None:
    chain = Chain(5, arrival_ms=100)
    assert chain.take(Interval(4, 5, 100, is_end=True)).kind is Kind.NEW
    assert chain.ended


def test_nothing_counts_after_the_end() -> None:
    chain = Chain(5)
    chain.take(Interval(5, 6, 100, is_end=True))
    assert chain.take(Interval(6, 9, 200)).kind is Kind.OLD
    assert chain.position == 6


def test_rows_outside_their_interval_are_an_error() -> None:
    rows = rows_of([Shown(3, 0, 2), Shown(4, 0, 1)])
    assert new_rows(rows, Interval(3, 5, 0), 4).num_rows == 1
    with pytest.raises(ValueError, match=r"3 to 4: must lie in the record's interval \[3, 4\)"):
        new_rows(rows, Interval(3, 4, 0), 3)
    backwards = pa.Table.from_batches([rows]).take([2, 1]).to_batches()[0]
    with pytest.raises(ValueError, match="must not fall"):
        new_rows(backwards, Interval(3, 5, 0), 3)


def test_a_log_is_cut_where_features_change() -> None:
    log = Log((Shown(0, 0, 1), Shown(1, 0, 1, ("ctr", "age"))), 4)
    assert [interval.start for interval, _ in log.chain([])] == [0, 1]
