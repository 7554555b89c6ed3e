"""The audit's brute-force labels, over the plain dicts that the join's tests make.

A label record is a dict of its fields with ``event`` and ``offset``; a snapshot is
``{"request_id", "request_ts", "shown": [(item_id, position), …]}``; a position is ``None`` when
missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tenuto.features.events import Event
from tenuto.snapshot.audit.labels import by_request, row_events, row_labels, slot_of
from tenuto.snapshot.labels import SampleStream

Record = dict[str, Any]


@dataclass(frozen=True)
class Placed:
    """One label record as the audit has its events."""

    event: str
    offset: int
    fields: Record
    partition: int = 0


def joined_rows(
    stream: SampleStream, events: list[Event], labels: list[Record], snapshots: list[Record]
) -> list[Record]:
    """One dict of label columns per shown item, snapshots in order."""
    proofs = [event.name for event in events if event.implies_impression]
    found = by_request(map(placed, labels))
    return [
        row_labels(stream, proofs, snapshot["request_ts"], mine)
        for snapshot in snapshots
        for mine in row_events(found.get(snapshot["request_id"], []), slots(snapshot))
    ]


def useless_labels(
    stream: SampleStream, labels: list[Record], snapshots: list[Record]
) -> tuple[dict[str, int], dict[str, int]]:
    """By event: labels that no snapshot of their request reaches, and those no such one shows."""
    unmatched: dict[str, int] = {}
    not_shown: dict[str, int] = {}
    for record in map(placed, labels):
        event, fields = record.event, record.fields
        longest = max([la.window_ms for la in stream.labels if la.event.name == event], default=0)
        reach = stream.impression_window_ms + longest
        near = [
            snapshot
            for snapshot in snapshots
            if snapshot["request_id"] == fields["request_id"]
            and 0 <= fields["ts"] - snapshot["request_ts"] <= reach
        ]
        if not near:
            unmatched[event] = unmatched.get(event, 0) + 1
        elif all(slot_of(fields, slots(snapshot)) is None for snapshot in near):
            not_shown[event] = not_shown.get(event, 0) + 1
    return unmatched, not_shown


def placed(record: Record) -> Placed:
    return Placed(record["event"], record["offset"], record | {"position": known(record)})


def known(record: Record) -> int:
    return -1 if record["position"] is None else int(record["position"])


def slots(snapshot: Record) -> list[tuple[str, int]]:
    return [(item, -1 if position is None else position) for item, position in snapshot["shown"]]
