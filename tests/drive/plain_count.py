"""What a replay's rows must say, counted from the log with lists and loops.

Shares nothing with the joiner or the reader; features come from the audit.
"""

from __future__ import annotations

from typing import Any

from tenuto.drive.source import Source
from tenuto.features.schema import FeatureSet
from tenuto.snapshot.audit.formulas import float32_bits, value
from tenuto.snapshot.audit.judging import JudgedEvent
from tenuto.snapshot.audit.moment import ItemMoment, Read
from tenuto.snapshot.audit.prefix import Prefixes, Reached
from tenuto.snapshot.audit.stored import stored_entities

MINUTE_MS = 60_000
FRESHNESS_MS = 10_000


def expected_rows(source: Source, features: FeatureSet) -> dict[tuple[str, int], dict[str, Any]]:
    """Row by (request_id, item index): feature bits and labels, for a log's own order."""
    requests = source.requests(0, 2**60)
    events = []
    for request in requests:
        shown = range(len(request.candidates))
        events += [dict(e.fields, event=e.event) for e in source.outcomes(request, shown)]
    for event in events:
        event["position"] = -1 if event["position"] is None else event["position"]
    events.sort(key=lambda e: e["ts"])
    log: dict[str, list[list[JudgedEvent]]] = {topic: [[]] for topic in features.layout.topics}
    for event in events:
        found = log.get(event["event"], [[]])[0]
        found.append(JudgedEvent(event["event"], 0, len(found), event["ts"], event))
    prefixes = Prefixes(stored_entities(features.features, features.layout.rules), log)
    by_request: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_request.setdefault(event["request_id"], []).append(event)
    rows = {}
    for request in requests:
        boundary = request.ts_ms - request.ts_ms % FRESHNESS_MS
        positions = {
            (topic, 0): Reached(0, sum(event.arrival_ms < boundary for event in part))
            for topic, (part,) in log.items()
        }
        fields = {
            "user_id": request.user_id, "query": request.query, "request_ts": request.ts_ms,
            "as_of": boundary, "items": request.candidates, "context": {},
        }  # fmt: skip
        read = Read(prefixes, positions, fields)
        for index in range(len(request.candidates)):
            moment = ItemMoment(read, index)
            row: dict[str, Any] = {
                f.name: float32_bits(value(f, moment)) for f in features.features
            }
            mine = [e for e in by_request.get(request.request_id, []) if slot(request, e) == index]
            row |= labels(request.ts_ms, mine)
            rows[request.request_id, index] = row
    return rows


def slot(request: Any, event: dict[str, Any]) -> int | None:
    """The slot that an event belongs to: that of its position, else the item's first."""
    places = [i for i, item in enumerate(request.candidates) if item == event["item_id"]]
    positions = request.positions or list(range(len(request.candidates)))
    for place in places:
        if len(places) > 1 and event["position"] >= 0 and positions[place] == event["position"]:
            return place
    return places[0] if places else None


def labels(request_ts: int, events: list[dict[str, Any]]) -> dict[str, Any]:
    """The preset's labels of one row."""
    proofs = [
        e["ts"]
        for e in events
        if e["event"] in ("impressions", "clicks", "plays")
        and 0 <= e["ts"] - request_ts <= 10 * MINUTE_MS
    ]
    row: dict[str, Any] = {
        "impressed": 0, "clicked": 0, "click_delay_ms": None, "played": 0, "play_ms": None,
        "duration_ms": None, "liked": 0, "converted": 0,
    }  # fmt: skip
    if not proofs:
        return row
    start = min(proofs)

    def within(name: str, minutes: int) -> list[dict[str, Any]]:
        last = start + minutes * MINUTE_MS
        return [e for e in events if e["event"] == name and start <= e["ts"] <= last]

    row["impressed"] = 1
    if clicks := within("clicks", 10):
        row["clicked"] = 1
        row["click_delay_ms"] = min(e["ts"] for e in clicks) - start
    if plays := within("plays", 30):
        row["played"] = 1
        best = max(plays, key=lambda e: e["play_ms"])
        row["play_ms"], row["duration_ms"] = best["play_ms"], best["duration_ms"]
        row["converted"] = int(any(e["converted"] for e in plays))
    row["liked"] = int(bool(within("likes", 30)))
    return row
