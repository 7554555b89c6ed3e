"""An interaction log as the source of a run: rows become requests, and times become events.

Rows of one request_id are one request; without request ids each row is a request of its own. The
file's order matters only between rows that share a request and a position.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tenuto.drive.log_columns import ABSENT, EventColumns, StoredColumn, filled
from tenuto.drive.log_file import NUMBER, LogRows, header_of, read_rows
from tenuto.drive.log_problems import OnError, Problems
from tenuto.drive.log_requests import request_ids, without_conflicts
from tenuto.drive.mapping import (
    FileColumn,
    InteractionLogError,
    LogLayout,
    log_layout,
)
from tenuto.drive.source import MISSING_POSITION, EventRecord, Request, event_records
from tenuto.features.events import Event
from tenuto.features.feature import Context


def read_log(
    path: str | Path,
    events: Iterable[Event],
    *,
    mapping: Mapping[str, FileColumn] | None = None,
    context: Sequence[str] = (),
    declared_context: Iterable[Context] = (),
    on_error: OnError = "raise",
) -> InteractionLog:
    """Read a log: CSV or TSV (plain or .gz) or Parquet, one row per shown item.

    Args:
        path: the file. Columns ``user_id``, ``item_id`` and ``request_ts_ms`` must be there;
            ``request_id``, ``query``, ``position`` and a ``<event>_ts_ms`` per event may be.
        events: the application's events.
        mapping: names read from other columns or in other units.
        context: the columns that are context; no other column becomes one.
        declared_context: the application's context, which gives those their types.
        on_error: "raise" at the first bad row, or "skip" such rows and count them.

    Raises:
        InteractionLogError: a bad row, a missing column, a file that cannot be read, or no row.
    """
    layout = layout_of(path, events, mapping, context, declared_context)
    return InteractionLog(read_rows(path, layout, on_error=on_error))


def layout_of(
    path: str | Path,
    events: Iterable[Event],
    mapping: Mapping[str, FileColumn] | None,
    context: Sequence[str],
    declared_context: Iterable[Context],
) -> LogLayout:
    """What the file's columns are; arguments as for :func:`read_log`.

    Raises:
        InteractionLogError: the header cannot be read, or does not fit; it names the file.
    """
    header = header_of(path)
    try:
        return log_layout(
            header, events, mapping=mapping, context=context, declared_context=declared_context
        )
    except InteractionLogError as error:
        raise InteractionLogError(f"{path}: {error}") from error


class InteractionLog:
    """Requests and outcomes of a log; a :class:`~tenuto.drive.source.Source`.

    Attributes:
        layout: how the file was read.
        problems: rows that were skipped, by reason.
    """

    def __init__(self, rows: LogRows) -> None:
        self.layout: LogLayout = rows.layout
        self.problems: Problems = rows.problems
        table = without_conflicts(rows)
        if not len(table):
            raise InteractionLogError(f"{rows.problems.path.name}: no row could be read")
        ids, ranks = request_ids(rows, table)
        times, numbers = table["base::request_ts_ms"].to_numpy(), table[NUMBER].to_numpy()
        positions = np.full(len(table), ABSENT, np.int64)
        if rows.layout.find("base", "position"):
            positions = filled(table["base::position"])
        unknown_last = np.where(positions == ABSENT, np.iinfo(np.int64).max, positions)
        order = np.lexsort((numbers, unknown_last, ranks, times))
        begins = np.flatnonzero(np.diff(ranks[order], prepend=-1))
        self._begins = np.append(begins, len(order))
        self._ids = ids.take(ranks[order][begins])
        self._times = times[order][begins]
        self._numbers, self._positions = numbers[order], positions[order]
        self._users = StoredColumn(table["base::user_id"], order)
        self._items = StoredColumn(table["base::item_id"], order)
        query = rows.layout.find("base", "query")
        self._queries = StoredColumn(table[query.key], order) if query else None
        self._contexts = {
            one.name: StoredColumn(table[f"context::{one.name}"], order)
            for one in rows.layout.context
        }
        self._events = [
            EventColumns.of(event, rows.layout, table, order) for event in rows.layout.events
        ]

    def __len__(self) -> int:
        """How many requests there are."""
        return len(self._times)

    @property
    def rows(self) -> int:
        """How many rows they have together."""
        return len(self._numbers)

    @property
    def start_ms(self) -> int:
        """Time of the first request, epoch ms."""
        return int(self._times[0])

    @property
    def end_ms(self) -> int:
        """Time of the last request, epoch ms."""
        return int(self._times[-1])

    def requests(self, start_ms: int, end_ms: int) -> list[Request]:
        """Requests with ``start_ms <= ts_ms < end_ms``, ordered by (ts_ms, request_id)."""
        first, last = np.searchsorted(self._times, (start_ms, end_ms))
        return [self._request(index) for index in range(int(first), int(last))]

    def next_request_ms(self, from_ms: int) -> int | None:
        """Time of the first request at or after ``from_ms``; None when there is none."""
        index = int(np.searchsorted(self._times, from_ms))
        return int(self._times[index]) if index < len(self._times) else None

    def outcomes(self, request: Request, shown: Sequence[int] = ()) -> list[EventRecord]:
        """Events that the log has for this request, by time; ``shown`` changes nothing.

        Raises:
            KeyError: the request is not of this log.
        """
        begin, end = self._span(request)
        return self._records(request, begin, begin, end)

    def outcomes_of_slot(self, request: Request, slot: int) -> list[EventRecord]:
        """Events that the log has for one item of this request, by time.

        Raises:
            KeyError: the request is not of this log.
        """
        begin, _ = self._span(request)
        return self._records(request, begin, begin + slot, begin + slot + 1)

    def first_row(self) -> tuple[int, Request, int]:
        """The first good row of the file: its number, its request and its slot therein."""
        row = int(np.argmin(self._numbers))
        index = int(np.searchsorted(self._begins, row, side="right")) - 1
        return int(self._numbers[row]), self._request(index), row - int(self._begins[index])

    def _request(self, index: int) -> Request:
        begin, end = int(self._begins[index]), int(self._begins[index + 1])
        rows = slice(begin, end)
        context: dict[str, Any] = {
            one.name: self._contexts[one.name][rows]
            if one.per == "item"
            else self._contexts[one.name].at(begin)
            for one in self.layout.context
        }
        return Request(
            request_id=self._ids[index].as_py(),
            user_id=self._users.at(begin),
            query=self._queries.at(begin) if self._queries else "",
            ts_ms=int(self._times[index]),
            candidates=self._items[rows],
            positions=[
                MISSING_POSITION if position == ABSENT else position
                for position in self._positions[rows].tolist()
            ],
            context=context,
        )

    def _records(self, request: Request, origin: int, begin: int, end: int) -> list[EventRecord]:
        """Records of rows [begin, end); ``origin`` is the row of the request's first slot."""
        records: list[EventRecord] = []
        for columns in self._events:
            for row in columns.happened(begin, end):
                position = int(self._positions[row])
                records += event_records(
                    columns.event,
                    int(columns.times[row]),
                    request=request,
                    item_id=request.candidates[row - origin],
                    position=None if position == ABSENT else position,
                    own=columns.own(row),
                )
        records.sort(key=lambda record: record.ts_ms)
        return records

    def _span(self, request: Request) -> tuple[int, int]:
        low, high = np.searchsorted(self._times, (request.ts_ms, request.ts_ms + 1))
        found = bisect_left(
            range(len(self._times)),
            request.request_id,
            int(low),
            int(high),
            key=lambda index: str(self._ids[index].as_py()),
        )
        if found == high or self._ids[found].as_py() != request.request_id:
            raise KeyError(f"{request.request_id!r} at {request.ts_ms} is not of this log")
        return int(self._begins[found]), int(self._begins[found + 1])
