"""A request's report as text, and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from tenuto.features.matrix import State
from tenuto.inspection.requests import FoundEvent, FoundSnapshot, Joined, RequestReport
from tenuto.inspection.text import cell_text, moment, span, table
from tenuto.snapshot.column_names import STATE_SUFFIX
from tenuto.snapshot.record import LogPositions, Snapshot
from tenuto.streams.dead_letters import DeadLetter

_BASE = ("request_id", "user_id", "query", "item_id", "position", "ts")


def request_lines(report: RequestReport, items: int) -> Iterator[str]:
    """Lines for a terminal, with the values of the first ``items`` shown items."""
    for note in report.notes:
        yield f"note: {note}"
    for found, streams in zip(report.snapshots, report.samples, strict=True):
        yield from _snapshot_lines(found, items)
        yield ""
        yield from _event_lines(report.events, found)
        for joined in streams:
            yield ""
            yield from _joined_lines(joined, found)
        yield ""
    if report.other_dead_letters:
        yield f"dead letters of this request ({len(report.other_dead_letters)} more)"
        for dead in report.other_dead_letters:
            yield f"  {dead.topic}/{dead.partition}/{dead.offset}  {dead.reason}: {dead.text}"


def request_json(report: RequestReport) -> dict[str, Any]:
    """Everything, as JSON values; values that are missing are null."""
    return {
        "request_id": report.request_id,
        "partition": report.partition,
        "snapshots": [
            _snapshot_json(found) | {"samples": [asdict(joined) for joined in streams]}
            for found, streams in zip(report.snapshots, report.samples, strict=True)
        ],
        "events": [asdict(event) for event in report.events],
        "dead_letters": [_letter_json(dead) for dead in report.other_dead_letters],
        "notes": report.notes,
    }


def _snapshot_lines(found: FoundSnapshot, items: int) -> Iterator[str]:
    yield f"snapshot {found.topic}[{found.partition}]@{found.offset}"
    if found.refused:
        yield f"  REFUSED ({found.reason}): {found.refused}"
    snapshot = found.snapshot
    if snapshot is None:
        return
    asked = f"user {cell_text(snapshot.user_id)}, query {snapshot.query!r}"
    yield f"  who       {asked}"
    late = span(found.arrival_ms - snapshot.request_ts)
    yield f"  when      {moment(snapshot.request_ts)}, arrived {late} later"
    yield f"  as of     {moment(snapshot.as_of)}, layout {snapshot.layout}"
    yield (
        f"  policy    {cell_text(snapshot.policy)}, slice {cell_text(snapshot.slice)}, "
        f"model {cell_text(snapshot.model)}, propensity {cell_text(snapshot.propensity)}, "
        f"weight {snapshot.weight:g}"
    )
    shared = {k: v for k, v in snapshot.context.items() if not _per_item(snapshot, v)}
    if shared:
        yield "  context   " + ", ".join(f"{k} {cell_text(v)}" for k, v in shared.items())
    yield "  log positions read at (next offset of each partition)"
    yield from position_lines(snapshot.log)
    yield ""
    yield from _item_lines(snapshot, items)


def position_lines(log: LogPositions) -> Iterator[str]:
    """Log positions as lines; they are a client's word, and may not fit together."""
    slots = len(log.topics) * log.partitions
    ill_formed = [batch for batch in log.batches if len(batch) != 4 or batch[0] >= slots]
    if len(log.next) != slots or ill_formed:
        yield (
            f"    they cannot be right: {len(log.topics)} topics of {log.partitions} partitions, "
            f"{len(log.next)} offsets, {len(ill_formed)} ill-formed batches in progress"
        )
        return
    for index, topic in enumerate(log.topics):
        offsets = log.next[index * log.partitions : (index + 1) * log.partitions]
        yield f"    {topic}: {' '.join(map(str, offsets))}"
    for index, end, chunks, done in log.batches:
        topic, partition = log.topics[index // log.partitions], index % log.partitions
        yield f"    {topic}[{partition}]: batch up to {end}, {done} of {chunks} chunks applied"
    if log.buckets > 1 and log.read:
        read = " ".join(map(str, log.read))
        yield f"    of {log.buckets} buckets were read: {read}; the above is of {log.read[0]}"
    for differing in log.differing:
        if len(differing) != 7 or differing[1] >= slots:
            yield f"    {differing}: cannot be right"
            continue
        bucket, index, _, at, end, chunks, done = differing
        topic, partition = log.topics[index // log.partitions], index % log.partitions
        busy = f", batch up to {end}, {done} of {chunks} chunks applied" if end else ""
        yield f"    bucket {bucket}, {topic}[{partition}]: {at}{busy}"


def _item_lines(snapshot: Snapshot, items: int) -> Iterator[str]:
    n = len(snapshot.items)
    shown = range(min(n, items))
    more = f" (the first {len(shown)}; --items shows more)" if len(shown) < n else ""
    yield f"  {n} items{more}; a value is fresh unless it says otherwise"
    rows: list[list[Any]] = [["position", *(_slot(snapshot, i) for i in shown)]]
    for name in snapshot.scores:
        rows.append([f"served {name}", *(_score(snapshot, name, i) for i in shown)])
    for name, value in snapshot.context.items():
        if isinstance(value, list) and _per_item(snapshot, value):
            rows.append([f"context {name}", *(value[i] for i in shown)])
    matrix, states = snapshot.matrix, snapshot.state_matrix
    for at, (name, _) in enumerate(snapshot.columns):
        rows.append([name, *(_value_text(matrix[i, at], states[i, at]) for i in shown)])
    yield from table(["", *(cell_text(snapshot.items[i]) for i in shown)], rows, indent=4)


def _value_text(value: Any, state: Any) -> str:
    name = State(int(state)).name.lower() if int(state) <= max(State) else f"state {state}"
    if np.isnan(value):
        return "missing" if name in ("fresh", "missing") else f"missing, {name}"
    text = f"{float(value):.6g}"
    return text if name == "fresh" else f"{text} {name}"


def _event_lines(events: list[FoundEvent], found: FoundSnapshot) -> Iterator[str]:
    counted = sum(not event.refused for event in events)
    yield f"events: {counted} accepted, {len(events) - counted} refused"
    if not events:
        return
    asked_ms = found.snapshot.request_ts if found.snapshot is not None else 0
    rows = []
    for event in events:
        own = {k: v for k, v in event.fields.items() if k not in _BASE}
        ts = event.fields.get("ts")
        position = event.fields.get("position")
        verdict = "accepted" if not event.refused else f"REFUSED ({event.reason})"
        rows.append(
            (
                event.event,
                f"[{event.partition}]@{event.offset}",
                "" if ts is None else f"+{span(ts - asked_ms)}",
                event.fields.get("item_id"),
                None if position in (None, -1) else str(position),
                verdict,
                " ".join(f"{k}={cell_text(v)}" for k, v in own.items()),
            )
        )
    header = ("event", "at", "after request", "item", "position", "verdict", "fields")
    yield from table(header, rows)
    for event in events:
        if event.refused:
            written = "dead letter written" if event.dead_letter else "no dead letter (yet)"
            yield f"  {event.topic}/{event.partition}/{event.offset}: {event.refused}; {written}"


def _joined_lines(joined: Joined, found: FoundSnapshot) -> Iterator[str]:
    yield f"samples of stream {joined.stream!r} ({joined.topic}): {joined.verdict}"
    told = "nothing" if joined.emitted_to is None else f"snapshot offset {joined.emitted_to}"
    if joined.verdict == "refused":
        yield "  a snapshot that does not count has no rows"
    elif joined.verdict == "waiting":
        yield f"  waiting until arrivals have passed {moment(joined.final_after_ms)} (request + H)"
        yield from _front_lines(joined)
    elif joined.verdict == "final":
        yield f"  no label can come any more, but the joiner has emitted up to {told}:"
        yield f"  is `tenuto worker join --stream {joined.stream}` running?"
        yield from _front_lines(joined)
    elif joined.verdict == "absent":
        yield f"  the joiner has emitted up to {told}, and no record there holds its rows"
    else:
        yield f"  {len(joined.rows)} rows in {joined.place}"
        features = {name for name, _ in found.snapshot.columns} if found.snapshot else set()
        names = [
            name
            for name in joined.rows[0]
            if name not in features and not name.endswith(STATE_SUFFIX) and name not in _HIDDEN
        ]
        yield from table(names, [[_cell(row[name]) for name in names] for row in joined.rows])


_HIDDEN = frozenset(
    {
        "request_id", "user_id", "query", "request_ts_ms", "as_of_ms", "policy", "slice", "model",
        "propensity", "snapshot_partition", "snapshot_offset", "item_index", "snapshot_arrival_ms",
    }
)  # fmt: skip


def _front_lines(joined: Joined) -> Iterator[str]:
    rows = [
        (
            front.topic,
            moment(front.needs_ms),
            moment(front.stands_ms),
            "passed" if front.passed else f"{span(front.needs_ms - front.stands_ms)} to go",
        )
        for front in joined.fronts
    ]
    yield from table(("label topic", "must pass", "is at arrival", ""), rows)


def _snapshot_json(found: FoundSnapshot) -> dict[str, Any]:
    place = {
        "topic": found.topic,
        "partition": found.partition,
        "offset": found.offset,
        "arrival_ms": found.arrival_ms,
        "reason": found.reason,
        "refused": found.refused,
    }
    snapshot = found.snapshot
    if snapshot is None:
        return place
    matrix, states = snapshot.matrix, snapshot.state_matrix
    log = snapshot.log
    return place | {
        "user_id": snapshot.user_id,
        "query": snapshot.query,
        "request_ts": snapshot.request_ts,
        "as_of": snapshot.as_of,
        "layout": snapshot.layout,
        "policy": snapshot.policy,
        "slice": snapshot.slice,
        "model": snapshot.model,
        "propensity": snapshot.propensity,
        "weight": snapshot.weight,
        "context": snapshot.context,
        "columns": dict(snapshot.columns),
        "items": [
            {
                "item_id": item,
                "position": _slot(snapshot, i),
                "scores": {name: _score(snapshot, name, i) for name in snapshot.scores},
                "values": {
                    name: None if np.isnan(matrix[i, at]) else float(matrix[i, at])
                    for at, (name, _) in enumerate(snapshot.columns)
                },
                "states": {
                    name: int(states[i, at]) for at, (name, _) in enumerate(snapshot.columns)
                },
            }
            for i, item in enumerate(snapshot.items)
        ],
        "log": {
            "partitions": log.partitions,
            "next": {
                topic: log.next[index * log.partitions : (index + 1) * log.partitions]
                for index, topic in enumerate(log.topics)
            },
            "batches": log.batches,
            "buckets": log.buckets,
            "read": log.read,
            "differing": log.differing,
        },
    }


def _letter_json(dead: DeadLetter) -> dict[str, Any]:
    return {
        "origin": f"{dead.topic}/{dead.partition}/{dead.offset}",
        "reason": dead.reason,
        "text": dead.text,
        "timestamp_ms": dead.timestamp_ms,
    }


def _slot(snapshot: Snapshot, index: int) -> int | None:
    slot = int(snapshot.slots[index])
    return None if slot < 0 else slot


def _score(snapshot: Snapshot, name: str, index: int) -> float:
    return float(np.frombuffer(snapshot.scores[name], "<f4")[index])


def _per_item(snapshot: Snapshot, value: Any) -> bool:
    return isinstance(value, list) and len(value) == len(snapshot.items)


def _cell(value: Any) -> Any:
    return str(value) if isinstance(value, bool) else value
