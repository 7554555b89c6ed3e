"""What a sample stream needs of each event: which columns, and for how long after the request.

Read off the labels' declarations; nothing else of a record is kept in memory or need be decoded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tenuto.features.events import BASE_FIELDS, Event
from tenuto.snapshot.labels import Label, SampleStream


@dataclass(frozen=True)
class EventNeeds:
    """One event's part in a sample stream.

    Attributes:
        fields: its own fields that labels read, besides request, item, position and time.
        offset: whether the log offset must be kept: it only tells records of one ts apart, which
            nothing but a carried field can show.
        implies_impression: whether it can set its row's time of impression.
        reach_ms: how long after its request a record can still matter.
    """

    fields: tuple[str, ...]
    offset: bool
    implies_impression: bool
    reach_ms: int


def needs_of(stream: SampleStream, events: Iterable[Event]) -> dict[str, EventNeeds]:
    """By event name: the events that a stream's labels read or that imply an impression.

    Raises:
        ValueError: a label needs a field that cannot be kept in a column, or carries from a total.
    """
    proofs = {event.name for event in events if event.implies_impression}
    labelled = {label.event.name for label in stream.labels}
    needs = {}
    for name in sorted(proofs | labelled):
        labels = [label for label in stream.labels if label.event.name == name]
        fields = dict.fromkeys(field for label in labels for field in _fields_of(label))
        windows = [label.window_ms for label in labels]
        needs[name] = EventNeeds(
            fields=tuple(fields),
            offset=any(label.carry for label in labels),
            implies_impression=name in proofs,
            reach_ms=stream.impression_window_ms + max(windows, default=0),
        )
    return needs


def _fields_of(label: Label) -> list[str]:
    names = [name for name in (label.where, label.field, *label.carry) if name is not None]
    for name in names:
        declared = label.event.all_fields[name]
        if name in BASE_FIELDS or declared.type is str:
            raise ValueError(
                f"label {label.name!r}: {name!r} of {label.event.name!r} cannot be in a label: "
                f"only the event's own int, bool and float fields can"
            )
        if not declared.required and declared.default is None:
            raise ValueError(
                f"label {label.name!r}: {name!r} of {label.event.name!r} may be absent: "
                f"give the field a default"
            )
    return names
