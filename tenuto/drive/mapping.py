"""Which column of an interaction log is read as what, and why the others are not read.

Names and units only: :mod:`tenuto.drive.columns` converts values, and
:mod:`tenuto.drive.log_file` reads them. Nothing here opens the log.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tenuto.features.events import BASE_FIELDS, Event, Field
from tenuto.features.feature import Context

REQUIRED = ("user_id", "item_id", "request_ts_ms")
BASE_COLUMNS: Mapping[str, Field] = {
    **{name: one for name, one in BASE_FIELDS.items() if name != "ts"},
    "request_ts_ms": BASE_FIELDS["ts"],
}
UNITS = ("ms", "s", "iso")
NOT_NAMED = "not named: most columns of a log are outcomes"


class InteractionLogError(ValueError):
    """A log, or a mapping of one, that cannot be read; the text names the place and the mend."""


@dataclass(frozen=True, slots=True)
class FileColumn:
    """A column of the file and its unit: ms, s or iso for times, ms or s for spans."""

    name: str
    unit: str = "ms"


@dataclass(frozen=True, slots=True)
class LogColumn:
    """One column as it is read.

    Attributes:
        name: name in the interaction log's own terms, such as ``click_ts_ms``.
        file: the column of the file.
        field: the type and range that its values must have.
        role: what it is.
        event: the event that it belongs to, for roles "event_time" and "event_field".
    """

    name: str
    file: FileColumn
    field: Field
    role: Literal["base", "event_time", "event_field", "context"]
    event: str = ""

    @property
    def key(self) -> str:
        """Unique among the columns read: two events may both read a ``duration_ms``."""
        return f"{self.role}:{self.event}:{self.name}"

    def __str__(self) -> str:
        if self.file.name == self.name:
            return self.name
        return f"{self.file.name} (read as {self.name})"


@dataclass(frozen=True, slots=True)
class LogLayout:
    """How a file will be read: its columns, the events and contexts they make, and the rest."""

    columns: tuple[LogColumn, ...]
    events: tuple[Event, ...]
    context: tuple[Context, ...]
    unused: Mapping[str, str] = field(default_factory=dict)

    def find(self, role: str, name: str, event: str = "") -> LogColumn | None:
        """The column of that role and name, if the file has one."""
        key = f"{role}:{event}:{name}"
        return next((column for column in self.columns if column.key == key), None)

    def of_event(self, event: Event) -> tuple[LogColumn | None, tuple[LogColumn, ...]]:
        """Its time column (None: the log does not have this event) and its own columns."""
        mine = [column for column in self.columns if column.event == event.name]
        time = next((column for column in mine if column.role == "event_time"), None)
        return time, tuple(column for column in mine if column.role == "event_field")


def read_map(path: str | Path) -> dict[str, FileColumn]:
    """A mapping file: which column of the log each name is read from, and its unit.

    It is TOML with one table, ``[columns]``; a value is the file's column, or a table::

        [columns]
        user_id = "uid"
        request_ts_ms = { from = "time", unit = "s" }

    Raises:
        InteractionLogError: the file cannot be read, or an entry is not of that form.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        # A number of thousands of digits is no TOMLDecodeError, nor is what is nested too deep.
        raise InteractionLogError(f"{path}: {error}") from error
    entries = document.pop("columns", None)
    if not isinstance(entries, dict) or document:
        other = f", not [{next(iter(document))}]" if document else ""
        raise InteractionLogError(f"{path}: a mapping has one table, [columns]{other}")
    return {name: _file_column(f"{path}: columns.{name}", one) for name, one in entries.items()}


def log_layout(
    header: Sequence[str],
    events: Iterable[Event],
    *,
    mapping: Mapping[str, FileColumn] | None = None,
    context: Sequence[str] = (),
    declared_context: Iterable[Context] = (),
) -> LogLayout:
    """Settle what each column of a file is.

    Args:
        header: the file's columns.
        events: the application's events; each reads ``<log_name>_ts_ms`` (or ``<name>_ts_ms``)
            and the columns named like its fields.
        mapping: names that are read from another column or in another unit.
        context: the columns that are context; no other column becomes one.
        declared_context: the application's context, which gives those their types.

    Raises:
        InteractionLogError: a required column is missing, a name is unknown or read twice.
    """
    events = tuple(events)
    layout = _Layout(tuple(header), dict(mapping or {}))
    for name, one in BASE_COLUMNS.items():
        layout.add(name, one, "base")
    for event in events:
        names = dict.fromkeys((f"{event.log_name}_ts_ms", f"{event.name}_ts_ms"))
        read = [name for name in names if layout.add(name, BASE_FIELDS["ts"], "event_time", event)]
        if len(read) == 2:
            raise InteractionLogError(f"columns {read[0]} and {read[1]} both time {event.name}")
        for name in event.fields:
            layout.add(name, event.all_fields[name], "event_field", event)
    declared = {one.name: one for one in declared_context}
    for name in context:
        layout.add_context(name, declared)
    return layout.settled(events, tuple(declared[name] for name in context))


class _Layout:
    """A layout in the making."""

    def __init__(self, header: tuple[str, ...], mapping: dict[str, FileColumn]) -> None:
        self._header, self._mapping = header, mapping
        self._columns: list[LogColumn] = []
        self._known: dict[str, str] = {}
        for name, file in mapping.items():
            if file.name not in header:
                raise InteractionLogError(
                    f"{name} is mapped to column {file.name!r}, which the file lacks; "
                    f"it has: {', '.join(header)}"
                )

    def add(self, name: str, one: Field, role: str, event: Event | None = None) -> bool:
        """Read ``name`` if the file has it; an event's own columns are dropped if it is absent."""
        self._known[name] = role
        file = self._mapping.get(name) or FileColumn(name)
        if file.name not in self._header:
            return False
        if file.unit != "ms" and (one.type is not int or name == "position"):
            raise InteractionLogError(f"{name} is not a time: it cannot have unit {file.unit!r}")
        of = event.name if event else ""
        self._columns.append(LogColumn(name, file, one, role, of))  # type: ignore[arg-type]
        return True

    def add_context(self, name: str, declared: Mapping[str, Context]) -> None:
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise InteractionLogError(f"context {name!r} is not declared; declared: {known}")
        if self._known.get(name) in ("base", "event_time"):
            raise InteractionLogError(f"context {name!r}: the log's own column, never a context")
        one = Field(declared[name].type, required=False)
        if not self.add(name, one, "context"):
            raise InteractionLogError(
                f"context {name!r}: the file has no such column; it has: {', '.join(self._header)}"
            )

    def settled(self, events: tuple[Event, ...], context: tuple[Context, ...]) -> LogLayout:
        unknown = [name for name in self._mapping if name not in self._known]
        if unknown:
            raise InteractionLogError(
                f"{unknown[0]!r} is mapped, but nothing reads it; "
                f"names are: {', '.join(self._known)}, and contexts that were named"
            )
        for name in REQUIRED:
            if not any(column.name == name for column in self._columns):
                raise InteractionLogError(
                    f"no column {name}; the file has: {', '.join(self._header)}; "
                    f'name it in a mapping: {name} = "…"'
                )
        timed = {column.event for column in self._columns if column.role == "event_time"}
        timed.add("")
        columns = tuple(column for column in self._columns if column.event in timed)
        return LogLayout(columns, events, context, self._unused(columns))

    def _unused(self, columns: Sequence[LogColumn]) -> dict[str, str]:
        read = {column.file.name for column in columns}
        return {name: self._why_unused(name) for name in self._header if name not in read}

    def _why_unused(self, name: str) -> str:
        if name in self._mapping:
            return f"{name} is read from {self._mapping[name].name}"
        event = next((one.event for one in self._columns if one.file.name == name), "")
        return f"the log has no time of {event}" if event else NOT_NAMED


def _file_column(place: str, entry: object) -> FileColumn:
    if isinstance(entry, str):
        return FileColumn(entry)
    if not isinstance(entry, dict) or not isinstance(entry.get("from"), str):
        raise InteractionLogError(f'{place}: write "column" or {{ from = "column", unit = "ms" }}')
    unknown = set(entry) - {"from", "unit"}
    if unknown:
        raise InteractionLogError(f"{place}: unknown key {min(unknown)!r}; known: from, unit")
    unit = entry.get("unit", "ms")
    if unit not in UNITS:
        raise InteractionLogError(f"{place}: unit {unit!r} is not one of {', '.join(UNITS)}")
    return FileColumn(entry["from"], unit)
