"""Sample rows as arrays: by name, checked, and the same however they are cut and joined."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pyarrow as pa
import pytest
from sample_rows import Asked, batch_of, spec_with

from tenuto.snapshot.projection import project
from tenuto.trainer.rows import (
    MISSING_POSITION,
    Rows,
    SchemaError,
    columns_of,
    concat,
    learnt_label,
    missing_columns,
    rows_of,
    unattributed,
)

ASKED = [Asked(5, 1000, 3, 900), Asked(6, 1500, 2), Asked(9, 2500, 4)]


def equal(left: Rows, right: Rows) -> bool:
    for field in fields(Rows):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if field.name == "ids":
            same = all(a[name].equals(b[name]) for name in a) and a.keys() == b.keys()
        elif field.name == "served":
            same = all(np.array_equal(a[n], b[n], equal_nan=True) for n in a)
        else:
            same = a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        if not same:
            return False
    return True


def test_every_column_is_taken_by_name() -> None:
    batch = batch_of(ASKED, 3, served=["ctr"])
    shuffled = batch.select(sorted(batch.schema.names))
    rows = rows_of(shuffled, spec_with())
    assert equal(rows, rows_of(batch, spec_with()))
    assert len(rows) == 9
    assert rows.partition.tolist() == [3] * 9
    assert rows.offset.tolist() == [5, 5, 5, 6, 6, 9, 9, 9, 9]
    assert rows.item_index.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert rows.request_ts_ms.tolist()[:4] == [900, 900, 900, 1500]
    assert rows.arrival_ms.tolist()[2:4] == [1000, 1500]
    assert rows.position.tolist() == [*[MISSING_POSITION] * 3, 0, 1, 0, 1, 2, 3]
    assert rows.ids["user"].to_pylist() == batch.column("user_id").to_pylist()
    assert rows.ids["item"].to_pylist() == batch.column("item_id").to_pylist()
    assert rows.labels[:, 1].tolist() == batch.column("converted").to_pylist()
    assert rows.served["ctr"].tolist() == batch.column("served_ctr").to_pylist()
    assert np.isnan(rows.served["ctcvr"]).all()


def test_a_column_that_the_samples_lack_is_missing_and_named() -> None:
    spec = spec_with(item_ctr="h-ctr", item_new="h-new")
    batch = batch_of(ASKED)
    rows = rows_of(batch, spec)
    assert np.isnan(rows.values[:, 1]).all()
    assert not np.isnan(rows.values[:, 0]).any()
    assert missing_columns(batch.schema, spec) == ["item_new"]


def test_only_the_columns_named_are_needed() -> None:
    spec = spec_with(item_ctr="h-ctr", item_new="h-new")
    batch = batch_of(ASKED, served=["ctr"])
    # A reader gives columns that are not there as nulls.
    named = project(batch, columns_of(spec))
    assert missing_columns(named.schema, spec) == ["item_new"]
    assert equal(rows_of(named, spec), rows_of(batch, spec))


def test_a_redefined_column_is_refused_with_both_definitions() -> None:
    batch = batch_of(ASKED, columns={"item_ctr": "other", "item_age": "h-age"})
    with pytest.raises(SchemaError, match=r"'item_ctr'.*'other'.*'h-ctr'"):
        rows_of(batch, spec_with())


def test_a_label_that_the_samples_lack_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"task 'cvr': the samples have no column 'converted'"):
        rows_of(batch_of(ASKED).drop_columns(["converted"]), spec_with())


def test_a_head_given_another_learns_what_happened_after_it_and_counts_the_rest() -> None:
    batch = batch_of([Asked(1, 0, 4)])
    for name, values in {
        "clicked": [1, 1, 0, 0],
        "converted": [1, 0, 1, 0],
        "impressed": [1, 1, 1, 1],
    }.items():
        at = batch.schema.get_field_index(name)
        batch = batch.set_column(at, batch.schema.field(name), pa.array(values, pa.uint8()))
    spec = spec_with()
    rows = rows_of(batch, spec)
    assert learnt_label(rows, spec.heads, 0).tolist() == [True, True, False, False]
    assert learnt_label(rows, spec.heads, 1).tolist() == [True, False, False, False]
    assert [unattributed(rows, spec.heads, head) for head in (0, 1)] == [0, 1]


def test_rows_cut_and_joined_are_the_same_rows() -> None:
    rows = rows_of(batch_of(ASKED), spec_with())
    assert equal(concat([rows.slice(0, 2), rows.slice(2, 2), rows.slice(2, 9)]), rows)
    order = np.array([8, 0, 3])
    taken = rows.take(order)
    assert taken.offset.tolist() == [9, 5, 6]
    assert taken.ids["item"].to_pylist() == [rows.ids["item"][i].as_py() for i in order]


def test_seen_rows_are_those_with_an_impression() -> None:
    rows = rows_of(batch_of(ASKED), spec_with())
    assert 0 < len(rows.seen()) < len(rows)
    assert rows.seen().impressed.all()
    assert len(rows.seen().seen()) == len(rows.seen())
