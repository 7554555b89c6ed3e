"""Labels by brute force: every event of a request held against every item that it was shown.

Loops over single records, slow and plain, after DESIGN's words; it shares no code with the join.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from tenuto.snapshot.labels import Label, SampleStream

Slots = Sequence[tuple[str, int]]
"""Shown items in order: item id and position, −1 where it is not known."""


class LabelEvent(Protocol):
    """An accepted event: ``fields`` are the base fields and its own, position −1 when missing."""

    @property
    def event(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def fields(self) -> Mapping[str, Any]: ...


Placed = TypeVar("Placed", bound=LabelEvent)


def by_request(events: Iterable[Placed]) -> dict[str, list[Placed]]:
    """Events by their request, in the order given."""
    found: dict[str, list[Placed]] = {}
    for event in events:
        found.setdefault(event.fields["request_id"], []).append(event)
    return found


def slot_of(fields: Mapping[str, Any], shown: Slots) -> int | None:
    """Which of the shown items an event is about; None if none of them.

    That of its position where the item was shown several times, else the item's first.
    """
    for slot, (item_id, position) in enumerate(shown):
        same = position >= 0 and position == fields["position"]
        if item_id == fields["item_id"] and same:
            return slot
    for slot, (item_id, _) in enumerate(shown):
        if item_id == fields["item_id"]:
            return slot
    return None


def row_events(events: Iterable[Placed], shown: Slots) -> list[list[Placed]]:
    """The events of one request, by the shown item that each is about."""
    rows: list[list[Placed]] = [[] for _ in shown]
    for event in events:
        slot = slot_of(event.fields, shown)
        if slot is not None:
            rows[slot].append(event)
    return rows


def row_labels(
    stream: SampleStream, proofs: Collection[str], request_ts: int, events: Iterable[LabelEvent]
) -> dict[str, Any]:
    """The label columns of one row.

    Args:
        stream: labels and windows.
        proofs: names of the events that imply an impression.
        request_ts: of the snapshot, epoch ms.
        events: all that are about this row, whenever they were.
    """
    mine = [event for event in events if event.fields["ts"] >= request_ts]
    seen = [
        event.fields["ts"]
        for event in mine
        if event.event in proofs and event.fields["ts"] <= request_ts + stream.impression_window_ms
    ]
    seen_ts = min(seen) if seen else None
    row: dict[str, Any] = {
        "impressed": 0 if seen_ts is None else 1,
        "impression_delay_ms": None if seen_ts is None else seen_ts - request_ts,
    }
    for label in stream.labels:
        row.update(_label_values(label, mine, seen_ts))
    return row


def counts_for(label: Label, event: LabelEvent) -> bool:
    """Whether an event can count for a label, its time aside."""
    if event.event != label.event.name:
        return False
    return label.where is None or bool(event.fields[label.where])


def _label_values(
    label: Label, events: Sequence[LabelEvent], seen_ts: int | None
) -> dict[str, Any]:
    counting = [
        event
        for event in events
        if seen_ts is not None
        and counts_for(label, event)
        and seen_ts <= event.fields["ts"] <= seen_ts + label.window_ms
    ]
    values: dict[str, Any] = dict.fromkeys(label.columns)
    if label.kind == "first":
        values[label.name] = 0
    if not counting or seen_ts is None:
        return values
    field = str(label.field)
    if label.kind == "total":
        # A client's exact repetition counts once.
        distinct = {
            (f["ts"], f["item_id"], f["position"], f[field])
            for f in (event.fields for event in counting)
        }
        values[label.name] = sum(value for _, _, _, value in distinct)
        return values
    if label.kind == "longest":
        most = max(event.fields[field] for event in counting)
        counting = [event for event in counting if event.fields[field] == most]
        values[label.name] = most
    else:
        values[label.name] = 1
    chosen = min(counting, key=lambda event: (event.fields["ts"], event.partition, event.offset))
    if label.delay:
        values[label.delay] = chosen.fields["ts"] - seen_ts
    for name in label.carry:
        values[name] = chosen.fields[name]
    return values
