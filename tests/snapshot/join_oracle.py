"""The join by brute force: loops over lists of dicts, slow and plain, after DESIGN's words.

It shares no code with the real one. A label record is a dict of its fields with ``event`` and
``offset``; a snapshot is ``{"request_id", "request_ts", "shown": [(item_id, position), …]}``; a
position is ``None`` when missing.
"""

from __future__ import annotations

from typing import Any

from tenuto.features.events import Event
from tenuto.snapshot.labels import Label, SampleStream

Record = dict[str, Any]


def slot_of(record: Record, shown: list[tuple[str, int | None]]) -> int | None:
    """Which of the shown items the record is about."""
    for slot, (item_id, position) in enumerate(shown):
        same = position is not None and position == record["position"]
        if item_id == record["item_id"] and same:
            return slot
    for slot, (item_id, _) in enumerate(shown):
        if item_id == record["item_id"]:
            return slot
    return None


def joined_rows(
    stream: SampleStream, events: list[Event], labels: list[Record], snapshots: list[Record]
) -> list[Record]:
    """One dict of label columns per shown item, snapshots in order."""
    proofs = [event.name for event in events if event.implies_impression]
    rows = []
    for snapshot in snapshots:
        request_ts = snapshot["request_ts"]
        for slot in range(len(snapshot["shown"])):
            mine = []
            for record in labels:
                if record["request_id"] != snapshot["request_id"] or record["ts"] < request_ts:
                    continue
                if slot_of(record, snapshot["shown"]) == slot:
                    mine.append(record)
            seen = [
                record["ts"]
                for record in mine
                if record["event"] in proofs
                and record["ts"] <= request_ts + stream.impression_window_ms
            ]
            row: Record = {
                "impressed": int(bool(seen)),
                "impression_delay_ms": min(seen) - request_ts if seen else None,
            }
            for label in stream.labels:
                row.update(label_values(label, mine, min(seen) if seen else None))
            rows.append(row)
    return rows


def label_values(label: Label, records: list[Record], seen_ts: int | None) -> Record:
    """The columns of one label, from all records of its row."""
    counting = []
    for record in records:
        if seen_ts is None or record["event"] != label.event.name:
            continue
        if label.where and not record[label.where]:
            continue
        if seen_ts <= record["ts"] <= seen_ts + label.window_ms:
            counting.append(record)
    values: Record = dict.fromkeys(label.columns)
    if label.kind == "first":
        values[label.name] = 0
    if not counting:
        return values
    if label.kind == "total":
        distinct = {(r["ts"], r["item_id"], r["position"], r[label.field]) for r in counting}
        values[label.name] = sum(value for _, _, _, value in distinct)
        return values
    if label.kind == "longest":
        most = max(record[label.field] for record in counting)
        counting = [record for record in counting if record[label.field] == most]
        values[label.name] = most
    else:
        values[label.name] = 1
    chosen = sorted(counting, key=lambda record: (record["ts"], record["offset"]))[0]
    if label.delay:
        values[label.delay] = chosen["ts"] - seen_ts
    for name in label.carry:
        values[name] = chosen[name]
    return values


def useless_labels(
    stream: SampleStream, events: list[Event], labels: list[Record], snapshots: list[Record]
) -> tuple[dict[str, int], dict[str, int]]:
    """By event: labels that no snapshot of their request reaches, and those no such one shows."""
    unmatched: dict[str, int] = {}
    not_shown: dict[str, int] = {}
    for record in labels:
        event = record["event"]
        longest = max([la.window_ms for la in stream.labels if la.event.name == event], default=0)
        reach = stream.impression_window_ms + longest
        near = [
            snapshot
            for snapshot in snapshots
            if snapshot["request_id"] == record["request_id"]
            and 0 <= record["ts"] - snapshot["request_ts"] <= reach
        ]
        if not near:
            unmatched[event] = unmatched.get(event, 0) + 1
        elif all(slot_of(record, snapshot["shown"]) is None for snapshot in near):
            not_shown[event] = not_shown.get(event, 0) + 1
    return unmatched, not_shown
