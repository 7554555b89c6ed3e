"""What a replay's rows must say, counted from the log with lists and loops.

Shares nothing with the joiner or the reader; features come from the oracle of tests/features.
"""

from __future__ import annotations

from typing import Any

from oracle import Oracle, bits

from tenuto.drive.source import Source
from tenuto.features.schema import FeatureSet

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
    longest = {}
    for view in features.layout.views:
        ring = view.rings[view.longest]
        longest[view.entity.name] = (ring.window, {c.measure for c in ring.cells})
    oracle = Oracle(list(features.features), longest)
    by_request: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_request.setdefault(event["request_id"], []).append(event)
    rows, known = {}, 0
    for request in requests:
        boundary = request.ts_ms - request.ts_ms % FRESHNESS_MS
        while known < len(events) and events[known]["ts"] < boundary:
            oracle.events.append(events[known])
            known += 1
        for index, item in enumerate(request.candidates):
            ids = {"item_id": item, "user_id": request.user_id, "query": request.query}
            row: dict[str, Any] = {
                f.name: bits(oracle.value(f, ids, request, {}, boundary)) for f in features.features
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
