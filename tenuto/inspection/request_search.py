"""Finding everything about a request in the log, within a bound on what is looked through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tenuto.features.events import Event
from tenuto.inspection.entities import InspectionError
from tenuto.inspection.partition_log import Kept, PartitionLog, Scan
from tenuto.inspection.requests import (
    FoundEvent,
    FoundSnapshot,
    Joined,
    RequestReport,
    event_verdict,
    fronts_of,
    mentions,
    of_request,
    snapshot_verdict,
)
from tenuto.inspection.text import moment
from tenuto.snapshot.label_needs import needs_of
from tenuto.snapshot.labels import SampleStream
from tenuto.snapshot.sample_record import Interval, decode_rows, interval_of
from tenuto.streams.codec import EventCodec
from tenuto.streams.dead_letters import DeadLetter
from tenuto.streams.door import Limits
from tenuto.streams.partitions import partition_of
from tenuto.streams.topic_names import TopicNames

# What a request's own records may be off by, beyond the rules, before a search gives up on them.
_MARGIN_MS = 1_000


@dataclass(frozen=True)
class Searched:
    """Where to look.

    Attributes:
        events, streams: of the application.
        limits: of event records; ``snapshot_limits`` of snapshots.
    """

    events: Sequence[Event]
    streams: Sequence[SampleStream]
    names: TopicNames
    limits: Limits
    snapshot_limits: Limits


def find_request(
    request_id: str, log: PartitionLog, where: Searched, letters: Iterable[DeadLetter]
) -> RequestReport:
    """Everything about a request.

    The newest snapshot of that id is found from the end of its partition backwards, and those of
    the same time with it; an older request that had the same id is not looked for.

    Raises:
        InspectionError: neither a snapshot nor a dead letter of that id was found: where it was
            looked for.
        LookupError: a topic does not exist.
        TimeoutError: the broker stopped answering.
    """
    topic = where.names.snapshots
    count = log.partitions(topic)
    if count != where.limits.n_partitions:
        raise InspectionError(
            f"{topic}: has {count} partitions, and kafka.partitions is "
            f"{where.limits.n_partitions}: set it to {count}"
        )
    partition = int(partition_of([request_id], count)[0])
    scan = _snapshot_scan(request_id, log, where, partition)
    judged = [
        snapshot_verdict(
            request_id,
            where.snapshot_limits,
            replace(kept, arrival_ms=log.arrival_at(kept.record)),
        )
        for kept in scan.kept
    ]
    snapshots = [found for found in judged if found is not None]
    refused = {
        (dead.topic, dead.partition, dead.offset): dead
        for dead in letters
        if of_request(dead, request_id)
    }
    if not snapshots and not refused:
        raise InspectionError(f"request {request_id!r}: {_looked_through(scan)}")
    notes = [_looked_through(scan)] if not snapshots else []
    events, stands_ms = _events(request_id, log, where, snapshots, notes)
    events = [replace(e, dead_letter=(e.topic, e.partition, e.offset) in refused) for e in events]
    shown = {(e.topic, e.partition, e.offset) for e in events}
    shown |= {(s.topic, s.partition, s.offset) for s in snapshots}
    return RequestReport(
        request_id,
        partition,
        snapshots,
        events,
        [
            [_joined(log, where, stream, found, stands_ms, notes) for stream in where.streams]
            for found in snapshots
        ],
        [dead for origin, dead in refused.items() if origin not in shown],
        notes,
    )


def _snapshot_scan(request_id: str, log: PartitionLog, where: Searched, partition: int) -> Scan:
    future_ms = where.limits.rules.future_ms

    def enough(scan: Scan) -> bool:
        # Looked through up to where no snapshot of the same request time can be.
        verdicts = (snapshot_verdict(request_id, where.snapshot_limits, k) for k in scan.kept)
        times = [v.snapshot.request_ts for v in verdicts if v is not None and v.snapshot]
        return bool(times) and scan.oldest_ms < min(times) - future_ms - _MARGIN_MS

    return log.backwards(
        where.names.snapshots, partition, lambda record: mentions(request_id, record), enough
    )


def _looked_through(scan: Scan) -> str:
    looked, there = scan.stop - scan.start, scan.end - scan.begin
    if looked < there:
        return (
            f"no snapshot among the newest {looked} of {there} records of {scan.place}, its "
            "partition by murmur2: --max-records looks further back"
        )
    return f"no snapshot among the {there} records of {scan.place}, its partition by murmur2"


def _events(
    request_id: str,
    log: PartitionLog,
    where: Searched,
    snapshots: Sequence[FoundSnapshot],
    notes: list[str],
) -> tuple[list[FoundEvent], dict[str, int]]:
    """Events of the request in time order, and how far each event's log goes."""
    rules = where.limits.rules
    times = [found.snapshot.request_ts for found in snapshots if found.snapshot is not None]
    if not times:
        return [], {}
    # Whatever a label can count arrives in between; a later record is refused as late.
    since_ms = min(times) - rules.future_ms
    until_ms = max(times) + max(
        (stream.horizon_ms(rules.lateness_ms) for stream in where.streams), default=0
    )
    partition = snapshots[0].partition
    events: list[FoundEvent] = []
    stands_ms: dict[str, int] = {}
    for event in where.events:
        topic, codec = where.names.of(event.name), EventCodec(event)
        scan = log.forwards(
            topic,
            partition,
            since_ms,
            lambda record: mentions(request_id, record),
            lambda scan: scan.arrival_ms > until_ms,
        )
        stands_ms[event.name] = scan.arrival_ms
        if scan.stop < scan.end or scan.arrival_ms < 0:
            newest = log.newest(topic, partition)
            stands_ms[event.name] = -1 if newest is None else int(newest.timestamp)
        if scan.cut:
            notes.append(
                f"{scan.place}: looked through {scan.stop - scan.start} records, up to "
                f"{moment(scan.arrival_ms)} of {moment(until_ms)}: --max-records looks further"
            )
        judged = [event_verdict(request_id, codec, where.limits, kept) for kept in scan.kept]
        events += [found for found in judged if found is not None]
    events.sort(key=lambda e: (e.fields.get("ts", e.arrival_ms), e.topic, e.offset))
    return events, stands_ms


def _joined(
    log: PartitionLog,
    where: Searched,
    stream: SampleStream,
    found: FoundSnapshot,
    stands_ms: Mapping[str, int],
    notes: list[str],
) -> Joined:
    topic = where.names.of(stream.topic)
    if found.snapshot is None or found.refused:
        return Joined(stream.name, topic, "refused", 0)
    rules = where.limits.rules
    request_ts = found.snapshot.request_ts
    final_after_ms = request_ts + stream.horizon_ms(rules.lateness_ms)
    topics = where.names.events(where.events)
    fronts = fronts_of(request_ts, rules, needs_of(stream, where.events), topics, stands_ms)

    def joined(verdict: str, emitted_to: int | None = None, **rest: object) -> Joined:
        return replace(
            Joined(stream.name, topic, verdict, final_after_ms, fronts, emitted_to),
            **rest,  # type: ignore[arg-type]
        )

    newest = log.newest(topic, found.partition)
    told = _interval(newest)
    emitted_to = None if told is None else told.end
    if emitted_to is None or emitted_to <= found.offset:
        final = bool(fronts) and all(front.passed for front in fronts)
        return joined("final" if final else "waiting", emitted_to)
    scan = log.forwards(
        topic,
        found.partition,
        # A record has the arrival of the last snapshot in it.
        found.arrival_ms,
        lambda record: _reaches(record, found.offset),
        lambda scan: bool(scan.kept) and _settles(scan.kept[-1].record, found.offset),
    )
    if scan.cut:
        notes.append(
            f"{scan.place}: looked through {scan.stop - scan.start} records without finding its "
            "rows: --max-records looks further"
        )
    for kept in scan.kept:
        rows = _rows(kept, found.offset)
        if rows:
            return joined(
                "joined", emitted_to, place=f"{scan.place}@{kept.record.offset}", rows=rows
            )
    return joined("absent", emitted_to)


def _interval(record: object) -> Interval | None:
    try:
        return None if record is None else interval_of(getattr(record, "headers", None) or ())
    except ValueError:
        return None


def _reaches(record: object, offset: int) -> bool:
    interval = _interval(record)
    return interval is not None and offset < interval.end


def _settles(record: Any, offset: int) -> bool:
    """Whether nothing after it need be looked at: it has rows, or begins beyond."""
    interval = _interval(record)
    return bool(record.value) or (interval is not None and interval.start > offset)


def _rows(kept: Kept, offset: int) -> list[dict[str, object]]:
    value = kept.record.value
    if not value:
        return []
    rows = decode_rows(value).to_pylist()
    return [row for row in rows if row["snapshot_offset"] == offset]
