"""Which rows of a log are one request: their ids, given or derived, and rows that disagree.

Works on the typed table of :mod:`tenuto.drive.log_file`; nothing here knows of events.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tenuto.drive.log_file import NUMBER, LogRows
from tenuto.drive.log_problems import Problem
from tenuto.drive.mapping import LogColumn

_ID_BYTES = 12


def without_conflicts(rows: LogRows) -> pa.Table:
    """The rows less those whose request began otherwise: another user, query, time or context.

    Raises:
        InteractionLogError: there is such a row, and bad rows raise.
    """
    table, layout = rows.table, rows.layout
    given = layout.find("base", "request_id")
    if given is None or not len(table):
        return table
    codes = _codes(table[given.key])
    numbers = table[NUMBER].to_numpy()
    order = np.lexsort((numbers, codes))
    begins = np.flatnonzero(np.diff(codes[order], prepend=-1))
    lengths = np.diff(np.append(begins, len(order)))
    first = np.empty(len(order), np.int64)
    first[order] = np.repeat(order[begins], lengths)
    bad = np.zeros(len(table), bool)
    found = []
    for column in _same_for_all(rows):
        values = _codes(table[column.key])
        differs = (values != values[first]) & ~bad
        bad |= differs
        for row in np.flatnonzero(differs):
            other = int(first[row])
            value, was = (table[column.key][at].as_py() for at in (int(row), other))
            name = table[given.key][other].as_py()
            what = f"{was!r}, as in row {numbers[other]} of the same request {name!r}"
            found.append(Problem(int(numbers[row]), str(column), repr(value), what, _REASON))
    rows.problems.add(found)
    return table.filter(pa.array(~bad)) if bad.any() else table


def request_ids(rows: LogRows, table: pa.Table) -> tuple[pa.Array, np.ndarray]:
    """The distinct request ids in ascending order, and each row's place among them (int64)."""
    given = rows.layout.find("base", "request_id")
    ids = table[given.key] if given else _derived(rows, table)
    ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    coded = ids.dictionary_encode()
    ascending = pc.array_sort_indices(coded.dictionary).to_numpy()
    rank = np.empty(len(ascending), np.int64)
    rank[ascending] = np.arange(len(ascending))
    return coded.dictionary.take(pa.array(ascending)), rank[coded.indices.to_numpy()]


_REASON = "differs between the rows of one request"


def _same_for_all(rows: LogRows) -> list[LogColumn]:
    """Columns that say one thing about a request."""
    layout = rows.layout
    names = [("base", name) for name in ("user_id", "query", "request_ts_ms")]
    names += [("context", one.name) for one in layout.context if one.per == "request"]
    return [found for role, name in names if (found := layout.find(role, name))]


def _codes(values: pa.ChunkedArray) -> np.ndarray:
    """Equal int64 for equal values, null being one of them."""
    array = values.combine_chunks()
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    return np.asarray(pc.fill_null(array.indices, -1).to_numpy(), np.int64)


def _derived(rows: LogRows, table: pa.Table) -> pa.Array:
    """An id for each row, of its user, item, time and number among the rows equal in these.

    Equal rows are numbered by what else they say, so that the file's order matters only between
    rows that are the same in every column read.
    """
    user, item, time = (
        rows.layout.find("base", name) for name in ("user_id", "item_id", "request_ts_ms")
    )
    assert user is not None
    assert item is not None
    assert time is not None
    users, items, times = table[user.key], table[item.key], table[time.key].to_numpy()
    keys = (_codes(users), _codes(items), times)
    order = np.lexsort(keys)
    again = np.ones(len(order), bool)
    again[:1] = False
    for key in keys:
        again[1:] &= key[order][1:] == key[order][:-1]
    begins = np.flatnonzero(~again)
    ends = np.append(begins[1:], len(order))
    nth = np.zeros(len(order), np.int64)
    for begin, end in zip(begins[ends - begins > 1], ends[ends - begins > 1], strict=True):
        group = order[begin:end]
        says = table.drop_columns([NUMBER]).take(pa.array(group)).to_pylist()
        by_content = sorted(range(len(group)), key=lambda at: (repr(says[at]), int(group[at])))
        nth[group[by_content]] = np.arange(len(group))
    return pa.array(
        [
            _hashed(f"{len(one)}:{one}{len(other)}:{other}{ts}#{number}")
            for one, other, ts, number in zip(
                users.to_pylist(), items.to_pylist(), times.tolist(), nth.tolist(), strict=True
            )
        ],
        pa.large_string(),
    )


def _hashed(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=_ID_BYTES).hexdigest()
