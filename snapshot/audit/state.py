"""The whole feature state as plain numbers: as the log says it, and as Redis's bytes say it.

Both are the same nested dicts; the layout of the bytes is written down in docs/features.md.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tenuto.features.feature import Feature
from tenuto.features.rules import TimeRules
from tenuto.snapshot.audit.findings import Findings
from tenuto.snapshot.audit.judging import JudgedEvent, JudgedTopic
from tenuto.snapshot.audit.log import RecordedLog
from tenuto.snapshot.audit.prefix import At, Prefixes, Reached
from tenuto.snapshot.audit.snapshot_positions import Arrivals
from tenuto.snapshot.audit.stored import Ids, StoredEntity, StoredWindow, stored_entities

_ENTRY = struct.Struct("<16sqqqqqqII")

Cells = dict[str, int]
"""Values by the cells' definitions, those that are not zero."""


@dataclass(frozen=True, slots=True)
class StateEntry:
    """Progress of one partition as it stands in the store."""

    incarnation: bytes
    origin: int
    origin_arrival: int
    next: int
    arrival: int
    rebuild_until: int
    batch_end: int
    chunks: int
    done: int


@dataclass(slots=True)
class EntityState:
    """One entity, by window in ms: its head (newest tile) and the tiles that are not empty."""

    heads: dict[int, int] = field(default_factory=dict)
    tiles: dict[int, dict[int, Cells]] = field(default_factory=dict)


@dataclass(slots=True)
class State:
    """All of it.

    Attributes:
        entries: by (topic, partition), those that the store knows.
        entities: by the name of their kind and their ids.
        foreign: keys that are of no entity or have a wrong size, and what is wrong.
    """

    entries: dict[At, StateEntry] = field(default_factory=dict)
    entities: dict[tuple[str, Ids], EntityState] = field(default_factory=dict)
    foreign: dict[bytes, str] = field(default_factory=dict)


Bucket = tuple[int, int]
"""A bucket's number, and how many there are."""
WHOLE: Bucket = (0, 1)
_BUCKET = re.compile(rb"\.(\d+)of(\d+)\.\d+\}:")


def by_bucket(keys: Mapping[bytes, bytes]) -> dict[Bucket, dict[bytes, bytes]]:
    """The keys of each bucket; without any, of a store that is whole and empty."""
    found: dict[Bucket, dict[bytes, bytes]] = {}
    for key, value in keys.items():
        told = _BUCKET.search(key[: key.find(b"}:") + 2])
        bucket = (int(told[1]), int(told[2])) if told else WHOLE
        found.setdefault(bucket, {})[key] = value
    return found or {WHOLE: {}}


def decode_state(
    keys: Mapping[bytes, bytes],
    features: Sequence[Feature],
    rules: TimeRules,
    *,
    partitions: int,
) -> State:
    """What the bytes in Redis say.

    Args:
        keys: values of one bucket of one layout, by key, prefix included.
        partitions: of every input topic.
    """
    stored = stored_entities(features, rules)
    topics = sorted({topic for entity in stored for topic in entity.topics})
    state = State()
    for key, value in keys.items():
        name = key.partition(b"}:")[2]
        if name == b"progress":
            _decode_progress(state, key, value, topics, partitions)
            continue
        number, _, rest = name.partition(b":")
        entity = next((s for s in stored if b"%d" % s.index == number), None)
        ids = None if entity is None else _split(rest, len(entity.entity.key))
        if entity is None or ids is None:
            state.foreign[key] = "no entity of the layout"
            continue
        size = sum(4 + window.ring * _slot_bytes(window) for window in entity.windows)
        if len(value) != size:
            state.foreign[key] = f"{len(value)} bytes: must be {size}"
            continue
        state.entities[entity.entity.name, ids] = _decode_entity(entity, value)
    return state


def expected_state(
    features: Sequence[Feature],
    rules: TimeRules,
    events: Mapping[str, JudgedTopic[JudgedEvent]],
    entries: Mapping[At, StateEntry],
    bucket: Bucket = WHOLE,
) -> State:
    """What the log says that a bucket of the store must hold at these positions.

    Args:
        entries: where it stands; origins, positions and batches in progress are taken from them.
    """
    number, buckets = bucket
    stored = stored_entities(features, rules)
    prefixes = Prefixes(stored, {topic: judged.accepted for topic, judged in events.items()})
    positions = {
        at: Reached(entry.origin, entry.next, entry.batch_end, entry.chunks, entry.done)
        for at, entry in entries.items()
    }
    state = State(dict(entries))
    for name, ids in prefixes.entities():
        if prefixes.stored[name].lives_in(ids, buckets) != number:
            continue
        tiles = prefixes.tiles(name, ids, positions)
        found = EntityState()
        inside = [event for event, is_in in prefixes.events(name, ids, positions) if is_in]
        if not inside:
            continue
        for window, rows in zip(prefixes.stored[name].windows, tiles.windows, strict=True):
            length_ms, tile_ms = window.window.length_ms, window.window.tile_ms
            found.heads[length_ms] = max(event.fields["ts"] // tile_ms for event in inside)
            found.tiles[length_ms] = {
                tile: cells for tile, row in rows.items() if (cells := _cells(window, row))
            }
        state.entities[name, ids] = found
    return state


def compare_state(
    expected: State,
    found: State,
    features: Sequence[Feature],
    rules: TimeRules,
    log: RecordedLog,
    events: Mapping[str, JudgedTopic[JudgedEvent]],
    findings: Findings,
) -> None:
    """Count what is equal and what is not, as ``state`` and ``progress``.

    Tiles that no ring reaches any more are left out, and so is what the store does not hold because
    it was swept, of an entity that has come back since too, or is all zeros. What retention
    deleted, the store still has, as it has what it read before a gap: tiles that may hold such
    records are unverifiable.
    """
    stored = {entity.entity.name: entity for entity in stored_entities(features, rules)}
    for key, text in found.foreign.items():
        findings.add("extra", "state", repr(key), text)
    _compare_entries(found, log, events, findings)
    slowest = min((entry.arrival for entry in found.entries.values()), default=0)
    oldest_ms = slowest - rules.lateness_ms - rules.slack_ms - rules.future_ms
    lost_ms = _lost_ms(found, rules, log, Arrivals(log, events))
    for name, ids in sorted({*expected.entities, *found.entities}):
        entity = stored[name]
        mine = expected.entities.get((name, ids), EntityState())
        theirs = found.entities.get((name, ids))
        if theirs is None and _is_swept(entity, mine, oldest_ms):
            findings.equal("state")
            continue
        lost = max((lost_ms.get(topic, 0) for topic in entity.topics), default=0)
        dead_ms = oldest_ms - entity.longest.window.length_ms
        _compare_entity(entity, ids, mine, theirs or EntityState(), lost, dead_ms, findings)


def _lost_ms(
    found: State, rules: TimeRules, log: RecordedLog, arrivals: Arrivals
) -> dict[str, int]:
    """By topic, until when event times of records may lie that were read and then deleted."""
    lost: dict[str, int] = {}
    for (topic, partition), entry in found.entries.items():
        start = log.topics[topic].partitions[partition].start
        if entry.origin > start or start == 0:
            continue
        until_ms = arrivals.at((topic, partition), start) or entry.arrival
        if entry.origin == start:
            # A gap moved it there, or the store began there.
            until_ms = max(until_ms, entry.origin_arrival)
        lost[topic] = max(lost.get(topic, 0), until_ms + rules.future_ms)
    return lost


def _compare_entity(
    entity: StoredEntity,
    ids: Ids,
    mine: EntityState,
    theirs: EntityState,
    lost_ms: int,
    dead_ms: int,
    findings: Findings,
) -> None:
    where = f"{entity.entity.name} {'/'.join(ids)}".strip()
    faults = []
    unverifiable = False
    for window in entity.windows:
        length_ms, lost_tile = window.window.length_ms, lost_ms // window.window.tile_ms
        heads = mine.heads.get(length_ms, -1), theirs.heads.get(length_ms, -1)
        if lost_ms and heads[0] < heads[1] <= lost_tile:
            unverifiable = True
        elif theirs.heads and heads[0] != heads[1]:
            faults.append(f"head of {length_ms} ms: expected tile {heads[0]}, found {heads[1]}")
        gone = max(heads) - window.ring
        rows = mine.tiles.get(length_ms, {}), theirs.tiles.get(length_ms, {})
        for tile in sorted({*rows[0], *rows[1]}):
            if tile <= gone:
                continue
            cells = rows[0].get(tile, {}), rows[1].get(tile, {})
            if not cells[1] and tile + 1 < dead_ms // window.window.tile_ms:
                continue
            if lost_ms and tile <= lost_tile and cells[0] != cells[1]:
                unverifiable = True
                continue
            faults += [
                f"{cell} of tile {tile} of {length_ms} ms: expected {cells[0].get(cell, 0)}, "
                f"found {cells[1].get(cell, 0)}"
                for cell in sorted({*cells[0], *cells[1]})
                if cells[0].get(cell, 0) != cells[1].get(cell, 0)
            ]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        findings.add("mismatching", "state", where, "; ".join(faults[:3]) + more)
    elif unverifiable:
        findings.unverifiable["state"] += 1
    else:
        findings.equal("state")


def _compare_entries(
    found: State,
    log: RecordedLog,
    events: Mapping[str, JudgedTopic[JudgedEvent]],
    findings: Findings,
) -> None:
    arrivals = Arrivals(log, events)
    for (topic, partition), entry in sorted(found.entries.items()):
        at, where = (topic, partition), f"{topic}[{partition}]"
        part = log.topics[topic].partitions[partition]
        low = arrivals.since(at, entry.origin, entry.next)
        high = max(low, arrivals.before(at, entry.next))
        faults = []
        if entry.incarnation != log.topics[topic].incarnation:
            faults.append(f"incarnation {entry.incarnation.hex()}: the log's is another one")
        # A gap may have cut a batch in progress: the rest of it begins behind the gap.
        last = max(entry.next, entry.batch_end)
        if not (entry.origin <= last and entry.next <= part.end) or entry.rebuild_until > part.end:
            faults.append(
                f"origin {entry.origin}, next {entry.next}, rebuild_until {entry.rebuild_until}: "
                f"must ascend, and the log ends at {part.end}"
            )
        if entry.batch_end and not (
            entry.next < entry.batch_end <= part.end and 0 < entry.done < entry.chunks
        ):
            faults.append(f"batch up to {entry.batch_end}, {entry.done} of {entry.chunks} chunks")
        if not low <= entry.arrival <= high and part.start <= entry.origin:
            expected = f"{low}" if low == high else f"{low} to {high}"
            faults.append(f"arrival: expected {expected}, found {entry.arrival}")
        if faults:
            findings.add("mismatching", "progress", where, "; ".join(faults))
        else:
            findings.equal("progress")


def _is_swept(entity: StoredEntity, mine: EntityState, oldest_ms: int) -> bool:
    """Whether the store may have deleted an entity: no read can see any of its tiles."""
    longest_ms = entity.longest.window.length_ms
    return all(
        mine.heads.get(window.window.length_ms, -1) + 1
        < max(0, (oldest_ms - longest_ms) // window.window.tile_ms)
        for window in entity.windows
    ) or not any(mine.tiles.values())


def _decode_progress(
    state: State, key: bytes, value: bytes, topics: Sequence[str], partitions: int
) -> None:
    size = len(topics) * partitions * _ENTRY.size
    if len(value) != size:
        state.foreign[key] = f"{len(value)} bytes: must be {size}"
        return
    for index in range(len(topics) * partitions):
        entry = StateEntry(*_ENTRY.unpack_from(value, index * _ENTRY.size))
        if any(entry.incarnation):
            topic, partition = divmod(index, partitions)
            state.entries[topics[topic], partition] = entry


def _split(rest: bytes, parts: int) -> Ids | None:
    found = []
    try:
        for _ in range(parts - 1):
            digits, _, rest = rest.partition(b":")
            found.append(rest[: int(digits)].decode())
            rest = rest[int(digits) :]
        return (*found, rest.decode()) if parts else ()
    except ValueError:
        return None


def _decode_entity(entity: StoredEntity, value: bytes) -> EntityState:
    found = EntityState()
    base = 4 * len(entity.windows)
    for at, window in enumerate(entity.windows):
        length_ms = window.window.length_ms
        head = int.from_bytes(value[4 * at : 4 * at + 4], "big") - 1
        found.heads[length_ms] = head
        rows = found.tiles[length_ms] = {}
        for slot in range(window.ring):
            row = _row(window, value, base + slot * _slot_bytes(window))
            # The tile that a slot holds is the newest one that falls into it.
            tile = head - (head - slot) % window.ring
            if cells := _cells(window, row):
                rows[tile] = cells
        base += window.ring * _slot_bytes(window)
    return found


def _slot_bytes(window: StoredWindow) -> int:
    return sum(4 if cell.measure.field is None else 8 for cell in window.cells)


def _row(window: StoredWindow, value: bytes, at: int) -> list[int]:
    row = []
    for cell in window.cells:
        width = 4 if cell.measure.field is None else 8
        row.append(int.from_bytes(value[at : at + width], "big", signed=width == 8))
        at += width
    return row


def _cells(window: StoredWindow, row: Sequence[int]) -> Cells:
    return {
        cell.definition: cell.limited(number)
        for cell, number in zip(window.cells, row, strict=True)
        if number
    }
