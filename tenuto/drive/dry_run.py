"""What a log would be read as, before anything is run: the mapping, what is left out, a first row.

The whole file is read, by the same code as a replay's, and nothing is published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tenuto.drive.interactions import InteractionLog, layout_of
from tenuto.drive.log_file import LogRows, read_rows
from tenuto.drive.mapping import FileColumn, LogColumn
from tenuto.features.events import Event
from tenuto.features.feature import Context

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ColumnUse:
    """One column that is read: as which name, from which column of the file, in which unit."""

    name: str
    file_column: str
    unit: str
    role: str


@dataclass(frozen=True)
class EventShare:
    """An event in the log.

    Attributes:
        event: its name.
        column: the column that times it; None when the log has none.
        rows: rows in which it happened.
        share: of the good rows.
        before_request: rows in which it is stamped before its request, where it cannot count.
    """

    event: str
    column: str | None
    rows: int
    share: float
    before_request: int


@dataclass(frozen=True)
class DryRun:
    """How a log will be read.

    Attributes:
        path: the file.
        columns: what is read from where.
        unused: the file's other columns, each with the reason.
        rows: good rows.
        skipped: bad rows by reason.
        first_problems: the first few bad rows, as text.
        empty_rows: rows without any value in the columns that are read.
        requests: how many requests the rows make.
        start: time of the first request, ISO 8601; None when there is none.
        end: time of the last one.
        events: every declared event.
        first_row: the first good row as it will be read: row, request, slot, and its records.
    """

    path: str
    columns: list[ColumnUse]
    unused: dict[str, str]
    rows: int
    skipped: dict[str, int]
    first_problems: list[str]
    empty_rows: int
    requests: int
    start: str | None
    end: str | None
    events: list[EventShare]
    first_row: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as for JSON."""
        return asdict(self)

    def render(self) -> str:
        """The report as text for a terminal."""
        lines = [f"{self.path}: {self.rows} rows, {self.requests} requests"]
        if self.start:
            lines[0] += f", {self.start} to {self.end}"
        lines += _titled("read", [_use_line(use) for use in self.columns])
        lines += _titled("not read", [f"{name}: {why}" for name, why in self.unused.items()])
        lines += _titled("events", [_share_line(share) for share in self.events])
        lines += _titled("skipped", [f"{count} × {why}" for why, count in self.skipped.items()])
        lines += _titled("first bad rows", self.first_problems)
        if self.empty_rows:
            lines.append(f"empty rows: {self.empty_rows}")
        if self.first_row:
            request = self.first_row["request"]
            lines += _titled(
                f"first row (row {self.first_row['row']}), slot {self.first_row['slot']} of",
                [f"{name}: {value!r}" for name, value in request.items()],
            )
            lines += _titled(
                "its events",
                [f"{one['event']}: {one['fields']!r}" for one in self.first_row["events"]],
            )
        return "\n".join(lines)


def dry_run(
    path: str | Path,
    events: Iterable[Event],
    *,
    mapping: Mapping[str, FileColumn] | None = None,
    context: Sequence[str] = (),
    declared_context: Iterable[Context] = (),
) -> DryRun:
    """Read a log as :func:`~tenuto.drive.interactions.read_log` does, and tell what came of it.

    Bad rows are skipped and counted.

    Raises:
        InteractionLogError: the file, its header or the mapping cannot be used at all.
    """
    layout = layout_of(path, events, mapping, context, declared_context)
    rows = read_rows(path, layout, on_error="skip")
    log = InteractionLog(rows) if len(rows.table) else None
    return DryRun(
        path=str(path),
        columns=[_use(column) for column in layout.columns],
        unused=dict(layout.unused),
        rows=log.rows if log else 0,
        skipped=dict(sorted(rows.problems.by_reason.items())),
        first_problems=[str(problem) for problem in rows.problems.first],
        empty_rows=rows.empty_rows,
        requests=len(log) if log else 0,
        start=_iso(log.start_ms) if log else None,
        end=_iso(log.end_ms) if log else None,
        events=[_share(event, rows) for event in layout.events],
        first_row=_first_row(log) if log else None,
    )


def _use(column: LogColumn) -> ColumnUse:
    timed = column.role == "event_time" or column.name == "request_ts_ms"
    unit = column.file.unit if timed or column.name.endswith("_ms") else ""
    of = f" of {column.event}" if column.event else ""
    return ColumnUse(column.name, column.file.name, unit, column.role.replace("_", " ") + of)


def _share(event: Event, rows: LogRows) -> EventShare:
    time, _ = rows.layout.of_event(event)
    if time is None:
        return EventShare(event.name, None, 0, 0.0, 0)
    times = rows.table[time.key]
    happened = len(times) - times.null_count
    early = pc.sum(pc.less(times, rows.table["base::request_ts_ms"]).cast(pa.int64())).as_py()
    share = happened / len(times) if len(times) else 0.0
    return EventShare(event.name, time.file.name, happened, share, early or 0)


def _first_row(log: InteractionLog) -> dict[str, Any]:
    row, request, slot = log.first_row()
    events = [asdict(record) for record in log.outcomes_of_slot(request, slot)]
    return {"row": row, "slot": slot, "request": asdict(request), "events": events}


def _use_line(use: ColumnUse) -> str:
    source = "" if use.file_column == use.name else f" from {use.file_column}"
    return f"{use.name}{source}{f' [{use.unit}]' if use.unit else ''}: {use.role}"


def _share_line(share: EventShare) -> str:
    if share.column is None:
        return f"{share.event}: no column"
    text = f"{share.event} ({share.column}): {share.rows} rows, {share.share:.1%}"
    if share.before_request:
        text += f"; {share.before_request} before their request: these cannot count"
    return text


def _titled(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title}:", *(f"  {line}" for line in lines)] if lines else []


def _iso(ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds")
