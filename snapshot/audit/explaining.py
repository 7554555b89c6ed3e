"""What a wrong value would be right for: a later prefix, another window, a record counted twice.

Tried one after the other; the first that gives the value bit for bit is the explanation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from tenuto.features.feature import Feature
from tenuto.snapshot.audit.findings import Kind
from tenuto.snapshot.audit.formulas import float32_bits, value
from tenuto.snapshot.audit.judging import JudgedEvent
from tenuto.snapshot.audit.moment import ItemMoment, Read
from tenuto.snapshot.audit.prefix import BucketPositions, Positions, Prefixes, Reached

_MOST = 200
_NAMED = 3

Change = tuple[JudgedEvent, int]


def explain(
    prefixes: Prefixes,
    positions: Positions | BucketPositions,
    fields: Mapping[str, Any],
    feature: Feature,
    item: int,
    found: int,
) -> tuple[Kind, str]:
    """Whether a value is leaking or only wrong, and the records or the window that say so.

    Args:
        positions: the prefix that the snapshot names.
        fields: of the snapshot.
        feature: whose value of which ``item`` is wrong.
        found: its float32 bits.
    """
    inside, later = _events(prefixes, positions, fields, feature, item)

    def is_it(changes: Sequence[Change] = (), tiles: tuple[int, int] = (0, 0)) -> bool:
        read = Read(prefixes, positions, fields, changes, tiles)
        return float32_bits(value(feature, ItemMoment(read, item))) == found

    for changes in _later(later):
        if is_it(changes):
            return "leaking", f"it includes {_named(changes)}, after the positions that it names"
    now = Read(prefixes, positions, fields)
    for first, last in ((0, 1), (1, 1), (-1, 0), (1, 0), (-1, -1), (0, -1)):
        if not any(window for _, window in feature.needs) or not is_it((), (first, last)):
            continue
        edges = [now.edges(window) for _, window in feature.needs]
        low, high = edges[0]
        beyond = [
            (event, 1)
            for event in inside
            for (_, window), (_, edge) in zip(feature.needs, edges, strict=True)
            if last > 0 and event.fields["ts"] // window.tile_ms == edge + 1
        ]
        text = f"it is the sum over tiles ({low + first}, {high + last}], another window"
        if beyond:
            return "leaking", f"{text}: it includes {_named(beyond)}, beyond as_of"
        return "mismatching", text
    for changes in _again(inside):
        if is_it(changes):
            return "mismatching", f"{_named(changes)} is counted twice in it"
    for event in inside[-_MOST:]:
        if is_it([(event, -1)]):
            return "mismatching", f"{_named([(event, -1)])} is not in it"
    return "mismatching", "no record and no window explains it"


def place(event: JudgedEvent) -> str:
    """``clicks[2]@131``."""
    return f"{event.event}[{event.partition}]@{event.offset}"


def _events(
    prefixes: Prefixes,
    positions: Positions | BucketPositions,
    fields: Mapping[str, Any],
    feature: Feature,
    item: int,
) -> tuple[list[JudgedEvent], list[JudgedEvent]]:
    """Events of the entities behind a value by arrival: those of its prefix, and those after it."""
    moment = ItemMoment(Read(prefixes, positions, fields), item)
    counters = [counter for counter, _ in feature.needs]
    if feature.missing_with is not None:
        counters.append(feature.missing_with)
    longest_ms = max((w.window.length_ms + w.window.tile_ms for s in prefixes.stored.values()
                      for w in s.windows), default=0)  # fmt: skip
    inside: dict[str, JudgedEvent] = {}
    later: dict[str, JudgedEvent] = {}
    for name in dict.fromkeys(counter.entity.name for counter in counters):
        ids = moment.ids(prefixes.stored[name])
        if ids is None:
            continue
        mine = positions
        if isinstance(mine, BucketPositions):
            mine = mine.for_entity(prefixes.stored[name], ids)
        for event, is_inside in prefixes.events(name, ids, mine):
            if event.fields["ts"] <= fields["as_of"] - longest_ms:
                continue
            if is_inside:
                inside[place(event)] = event
            elif event.offset >= mine.get((event.event, event.partition), Reached(0, 0)).next:
                later[place(event)] = event
    for name in inside:
        later.pop(name, None)
    return list(inside.values()), list(later.values())


def _later(events: Sequence[JudgedEvent]) -> Iterator[list[Change]]:
    for event in events[:_MOST]:
        yield [(event, 1)]
    for count in range(2, min(len(events), _MOST) + 1):
        yield [(event, 1) for event in events[:count]]
    if len(events) > _MOST:
        yield [(event, 1) for event in events]


def _again(events: Sequence[JudgedEvent]) -> Iterator[list[Change]]:
    last = events[-_MOST:]
    for event in reversed(last):
        yield [(event, 1)]
    # A batch is consecutive records of one partition.
    by_partition: dict[tuple[str, int], list[JudgedEvent]] = {}
    for event in last:
        by_partition.setdefault((event.event, event.partition), []).append(event)
    for found in by_partition.values():
        found.sort(key=lambda event: event.offset)
        for count in range(2, len(found) + 1):
            yield [(event, 1) for event in found[-count:]]


def _named(changes: Sequence[Change]) -> str:
    ordered = sorted(
        (event for event, _ in changes), key=lambda e: (e.event, e.partition, e.offset)
    )
    # The same record may be in two windows.
    distinct = ordered[:1] + [b for a, b in pairwise(ordered) if place(a) != place(b)]
    texts = [f"{place(event)} of {event.fields['item_id']} at {event.fields['ts']}"
             for event in distinct[:_NAMED]]  # fmt: skip
    more = f" and {len(distinct) - _NAMED} more" if len(distinct) > _NAMED else ""
    return ", ".join(texts) + more
