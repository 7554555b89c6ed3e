"""What a label is: the first, longest or summed field of an event, within a window.

Declarations only. A label belongs to a row (one shown item of one snapshot); its window runs from
the row's impression time, so that items far down do not lose labels (see ``join.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tenuto.features.durations import duration_ms
from tenuto.features.events import Event

# What the join fills beside the labels.
_JOINED_COLUMNS = ["impressed", "impression_delay_ms"]


@dataclass(frozen=True)
class Label:
    """One label and the sample columns that it fills.

    ``first`` gives a 0/1 column ``name`` and, where ``delay`` is set, an int64 column of that name
    with the milliseconds from the impression (null when it did not happen). ``longest`` gives the
    int64 maximum of ``field`` over the window's records, null without any, and the ``carry``
    fields of the record that holds it. ``total`` gives the int64 sum of ``field`` over distinct
    records (a client's exact repetition counts once), null without any.

    Use :func:`first`, :func:`longest` and :func:`total` rather than this constructor.
    """

    name: str
    event: Event
    kind: Literal["first", "longest", "total"]
    window_ms: int
    field: str | None = None
    where: str | None = None
    delay: str | None = None
    carry: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        fields = self.event.all_fields
        for name in (self.field, self.where, *self.carry):
            if name is not None and name not in fields:
                raise ValueError(
                    f"label {self.name!r}: event {self.event.name!r} has no field {name!r}: "
                    f"it has {', '.join(fields)}"
                )
        if self.where is not None and fields[self.where].type is not bool:
            raise ValueError(f"label {self.name!r}: where={self.where!r} is not a bool field")
        if self.field is not None and fields[self.field].type is not int:
            raise ValueError(f"label {self.name!r}: {self.field!r} is not an int field")
        if (self.kind == "first") is not (self.field is None):
            wanted = "no" if self.kind == "first" else "a"
            raise ValueError(f"label {self.name!r}: {self.kind} takes {wanted} field")
        if self.kind == "total" and (self.carry or self.delay):
            raise ValueError(f"label {self.name!r}: a total has no one record to carry from")

    def within(self, window: str | int) -> Label:
        """The same label with another window, for example ``purchased.within("3d")``."""
        return replace(self, window_ms=duration_ms(window))

    @property
    def columns(self) -> tuple[str, ...]:
        """The sample columns that this label fills, in order."""
        return (self.name, *((self.delay,) if self.delay else ()), *self.carry)


def first(
    event: Event,
    name: str,
    *,
    window: str | int,
    where: str | None = None,
    delay: str | None = None,
) -> Label:
    """Did it happen: the first such event (with bool field ``where`` set) in the window."""
    return Label(name, event, "first", duration_ms(window), where=where, delay=delay)


def longest(
    event: Event, field: str, name: str, *, window: str | int, carry: tuple[str, ...] = ()
) -> Label:
    """The largest value of ``field`` in the window, and ``carry`` fields of that record."""
    return Label(name, event, "longest", duration_ms(window), field=field, carry=carry)


def total(event: Event, field: str, name: str, *, window: str | int) -> Label:
    """The sum of ``field`` over the window's distinct records."""
    return Label(name, event, "total", duration_ms(window), field=field)


@dataclass(frozen=True)
class SampleStream:
    """A join as a value: which labels, how long they may take, and the topic they go to.

    Several may run over the same snapshots, each its own process with its own horizon, so that a
    purchase's three days do not delay clicks.
    """

    name: str
    labels: tuple[Label, ...]
    impression_window_ms: int

    def __init__(
        self,
        name: str,
        labels: list[Label] | tuple[Label, ...],
        impression_window: str | int = "10m",
    ) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "labels", tuple(labels))
        object.__setattr__(self, "impression_window_ms", duration_ms(impression_window))
        if not self.labels:
            raise ValueError(f"sample stream {name!r} has no label")
        columns = [column for label in self.labels for column in label.columns]
        columns += _JOINED_COLUMNS
        doubled = sorted({column for column in columns if columns.count(column) > 1})
        if doubled:
            raise ValueError(f"sample stream {name!r}: two of its columns are {', '.join(doubled)}")

    @property
    def topic(self) -> str:
        """``samples`` for the default stream, ``samples-<name>`` for the others."""
        return "samples" if self.name == "default" else f"samples-{self.name}"

    def horizon_ms(self, lateness_ms: int) -> int:
        """H: a snapshot is final once its labels' arrival is beyond ``request_ts + H``."""
        longest_ms = max(label.window_ms for label in self.labels)
        return self.impression_window_ms + longest_ms + lateness_ms
