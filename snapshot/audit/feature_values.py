"""The features of a snapshot, counted again from the log: values, states, schema and positions."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Collection, Mapping
from functools import reduce
from operator import or_
from typing import Any

from tenuto.features.feature import Feature
from tenuto.features.schema import FeatureSet
from tenuto.snapshot.audit.explaining import explain, place
from tenuto.snapshot.audit.findings import Findings
from tenuto.snapshot.audit.formulas import float32_bits, is_shared, value
from tenuto.snapshot.audit.judging import JudgedEvent, JudgedSnapshot, JudgedTopic
from tenuto.snapshot.audit.log import RecordedLog
from tenuto.snapshot.audit.moment import ItemMoment, Read
from tenuto.snapshot.audit.prefix import At, BucketPositions, Prefixes, Reached
from tenuto.snapshot.audit.snapshot_positions import (
    Arrivals,
    NamedPositions,
    TopicPositions,
    read_positions,
)
from tenuto.snapshot.audit.stored import stored_entities
from tenuto.snapshot.audit.value_states import (
    REBUILDING,
    STATE_NAMES,
    Behind,
    StateRules,
    Stream,
    merged,
)

# An explanation tries many prefixes: beyond so many, a wrong value is only counted.
_EXPLAINED = 30

Streams = tuple[list[TopicPositions], dict[str, Stream], Behind]


class FeatureAudit:
    """Checks the features of one snapshot after another; the nearer their prefixes, the faster.

    Args:
        features: as declared, with the hashes and the layout digest that snapshots should have.
        log: whose events were judged.
        events: by topic, at least those that feed the features.
        outcomes: names that no feature column may have: labels and other outcomes.
        findings: where to count.
    """

    def __init__(
        self,
        features: FeatureSet,
        log: RecordedLog,
        events: Mapping[str, JudgedTopic[JudgedEvent]],
        outcomes: Collection[str],
        findings: Findings,
    ) -> None:
        self.findings = findings
        self._declared = features
        self._rules = features.layout.rules
        self._log = log
        self._outcomes = frozenset(outcomes)
        self._columns = [(column.name, column.hash) for column in features.columns]
        stored = stored_entities(features.features, self._rules)
        self._topics = sorted({topic for entity in stored for topic in entity.topics})
        fed = {topic: events[topic] for topic in self._topics}
        self._prefixes = Prefixes(stored, {topic: fed[topic].accepted for topic in fed})
        self._arrivals = Arrivals(log, fed)
        self._states = StateRules(features.features, self._rules, stored, log, self._arrivals)
        self._by_request: dict[str, list[JudgedEvent]] = {}
        for judged in fed.values():
            for part in judged.accepted:
                for event in part:
                    self._by_request.setdefault(event.fields["request_id"], []).append(event)
        self._missing_with = {f.name: f.missing_with for f in features.features}
        self._explained = 0

    def check(self, snapshot: JudgedSnapshot) -> None:
        """Compare everything that the snapshot says about its features."""
        fields, where = snapshot.fields, f"snapshots[{snapshot.partition}]@{snapshot.offset}"
        cells = len(fields["items"]) * len(fields["columns"])
        comparable = self._schema(fields, where)
        if comparable is None:
            for check in ("values", "states"):
                self.findings.unverifiable[check] += cells
            return
        named, faults = read_positions(fields["log"], self._topics, self._log)
        missing = set() if faults else self._not_read(named, comparable, fields)
        if missing:
            faults = [f"values of buckets {sorted(missing)}, which it does not say were read"]
        for fault in faults:
            self.findings.add("mismatching", "positions", where, fault)
        if faults:
            for check in ("values", "states"):
                self.findings.unverifiable[check] += cells
            return
        if not self._leaks(snapshot, named.positions, where):
            self.findings.equal("positions")
        self._compare(fields, named, comparable, where)

    def _buckets(self, named: NamedPositions, moment: ItemMoment, feature: Feature) -> set[int]:
        """The buckets of the entities that a value is formed from."""
        if named.buckets == 1:
            return {0}
        counters = [counter for counter, _ in feature.needs]
        missing_with = self._missing_with[feature.name]
        if missing_with is not None:
            counters.append(missing_with)
        found = set()
        for counter in counters:
            stored = self._prefixes.stored[counter.entity.name]
            ids = moment.ids(stored)
            # Nothing is read of an entity that was not given: any bucket will do.
            found.add(named.first if ids is None else stored.lives_in(ids, named.buckets))
        return found

    def _not_read(
        self,
        named: NamedPositions,
        comparable: list[tuple[int, Feature]],
        fields: Mapping[str, Any],
    ) -> set[int]:
        """Buckets of which a value comes, and no position."""
        if named.buckets == 1:
            return set()
        read = Read(self._prefixes, named.positions, fields)
        moments = [ItemMoment(read, item) for item in range(len(fields["items"]))]
        needed = [
            self._buckets(named, moment, feature) for moment in moments for _, feature in comparable
        ]
        return set().union(*needed) - set(named.topics)

    def _schema(self, fields: Mapping[str, Any], where: str) -> list[tuple[int, Feature]] | None:
        """The columns that can be counted again, with their features; None where none can."""
        given = [tuple(column) for column in fields["columns"]]
        leaks = [name for name, _ in given if name in self._outcomes]
        for name in leaks:
            text = f"column {name} is an outcome: known only after the request"
            self.findings.add("leaking", "schema", where, text)
        layout, declared = fields["layout"], self._declared.layout.digest
        if given == self._columns:
            if layout != declared:
                text = f"layout {layout}: must be {declared}, for all columns are those declared"
                self.findings.add("mismatching", "schema", where, text)
            elif not leaks:
                self.findings.equal("schema")
        else:
            # An older or a newer deployment's: only columns of one meaning can be compared.
            if not leaks:
                self.findings.unverifiable["schema"] += 1
            if layout != declared:
                return None
        features = dict(zip(self._columns, self._declared.features, strict=True))
        return [(at, features[column]) for at, column in enumerate(given) if column in features]

    def _leaks(self, snapshot: JudgedSnapshot, positions: BucketPositions, where: str) -> bool:
        """Whether the snapshot's time or its positions say more than its request could know."""
        fields, future_ms = snapshot.fields, self._rules.future_ms
        texts = []
        ahead_ms = fields["as_of"] - fields["request_ts"]
        if ahead_ms > future_ms:
            texts.append(f"as_of is {ahead_ms} ms after its request")
        furthest: dict[tuple[At, int], int] = {}
        for of_bucket in positions.of.values():
            for at, reached in of_bucket.items():
                end = reached.end if reached.done else reached.next
                furthest[at, end] = self._arrivals.before(at, end)
        for (at, end), arrival in furthest.items():
            if arrival > snapshot.arrival_ms + future_ms:
                texts.append(
                    f"{at[0]}[{at[1]}] is read up to {end}, which arrived at {arrival}: "
                    f"{arrival - snapshot.arrival_ms} ms after the snapshot itself"
                )
        for event in self._by_request.get(fields["request_id"], ()):
            if event.fields["ts"] >= fields["request_ts"] and self._is_inside(event, positions):
                texts.append(f"{place(event)}, an event of its own request, is in its prefix")
        for text in texts:
            self.findings.add("leaking", "positions", where, text)
        return bool(texts)

    def _is_inside(self, event: JudgedEvent, positions: BucketPositions) -> bool:
        """Whether an event is in the state of an entity that it adds to."""
        for stored in self._prefixes.stored.values():
            if event.event not in stored.topics:
                continue
            ids = stored.ids(event.fields)
            reached = positions.for_entity(stored, ids).get((event.event, event.partition))
            if reached is None:
                continue
            if reached.next <= event.offset < reached.end:
                if stored.chunk(ids, reached.chunks) < reached.done:
                    return True
            elif reached.origin <= event.offset < reached.next:
                return True
        return False

    def _compare(
        self,
        fields: Mapping[str, Any],
        named: NamedPositions,
        comparable: list[tuple[int, Feature]],
        where: str,
    ) -> None:
        positions = named.positions
        findings, m = self.findings, len(fields["columns"])
        values = struct.unpack(f"<{len(fields['values']) // 4}I", fields["values"])
        states: bytes = fields["states"]
        read = Read(self._prefixes, positions, fields)
        whole = BucketPositions(
            named.buckets,
            {
                bucket: {
                    at: Reached(0, r.next, r.end, r.chunks, r.done) for at, r in of_bucket.items()
                }
                for bucket, of_bucket in positions.of.items()
            },
        )
        # Asked about later: it moves the entities' tiles away from this prefix, and back.
        left_out = any(
            r.origin and self._began_late(at, r, fields)
            for of_bucket in positions.of.values()
            for at, r in of_bucket.items()
        )
        rows = [states[item * m : item * m + m] for item in range(len(fields["items"]))]
        formed = self._formed_from(fields, named, comparable, read, rows)
        if m > len(comparable):
            for check in ("values", "states"):
                findings.unverifiable[check] += len(rows) * (m - len(comparable))
        equal = {"values": 0, "values (formula shared)": 0, "states": 0}
        wrong: list[tuple[int, Feature, str, int, int]] = []
        incomplete: list[tuple[int, Feature, int]] = []
        known: dict[tuple[int, bool, bool, frozenset[int]], tuple[bool, set[int]]] = {}
        for item, row in enumerate(rows):
            moment = ItemMoment(read, item)
            for at, feature in comparable:
                check = "values (formula shared)" if is_shared(feature) else "values"
                buckets = frozenset(self._buckets(named, moment, feature))
                topics, streams, behind = formed(buckets)
                counter = self._missing_with[feature.name]
                seen = counter is None or moment.seen(counter)
                if self._states.is_cut(feature, topics, fields["as_of"], seen):
                    findings.unverifiable[check] += 1
                    findings.unverifiable["states"] += 1
                    continue
                number = value(feature, moment)
                bits, found = float32_bits(number), values[item * m + at]
                if (
                    not seen
                    and row[at] != REBUILDING
                    and self._states.may_be_known(feature, topics, streams)
                ):
                    # The store knows the entity from before a gap of the log.
                    number = value(feature, ItemMoment(read, item, is_known=True))
                    allowed = self._states.allowed(
                        feature, streams, behind, math.isnan(number), is_seen=True
                    )
                    if float32_bits(number) == found and row[at] in allowed:
                        findings.unverifiable[check] += 1
                        findings.unverifiable["states"] += 1
                        continue
                asked = at, math.isnan(number), seen, buckets
                if asked not in known:
                    known[asked] = (
                        self._states.must_rebuild(feature, streams, seen),
                        self._states.allowed(feature, streams, behind, asked[1], seen),
                    )
                must_rebuild, allowed = known[asked]
                if bits == found:
                    equal[check] += 1
                elif must_rebuild and row[at] == REBUILDING:
                    # A gap in the log moves the origin on, and what was read before it stays.
                    findings.unverifiable[check] += 1
                else:
                    wrong.append((item, feature, check, bits, found))
                state = row[at]
                if state not in allowed:
                    expected = " or ".join(STATE_NAMES[s] for s in sorted(allowed))
                    shown = STATE_NAMES.get(state, str(state))
                    text = f"{feature.name}: expected {expected}, found {shown}"
                    findings.add("mismatching", "states", f"{where} item {item}", text)
                elif state == REBUILDING and not must_rebuild:
                    # Until where the store was being rebuilt, the snapshot does not say.
                    findings.unverifiable["states"] += 1
                else:
                    equal["states"] += 1
                if left_out and state != REBUILDING:
                    incomplete.append((item, feature, bits))
        for check, n in equal.items():
            if n:
                findings.equal(check, n)
        for item, feature, check, bits, found in wrong:
            self._explain(fields, positions, read, item, feature, check, bits, found, where)
        self._check_complete(fields, whole, incomplete, where)

    def _formed_from(
        self,
        fields: Mapping[str, Any],
        named: NamedPositions,
        comparable: list[tuple[int, Feature]],
        read: Read,
        rows: list[bytes],
    ) -> Callable[[frozenset[int]], Streams]:
        """By the buckets that a value is formed from: topics, streams, and which were behind."""
        streams = {
            bucket: self._states.streams(topics, fields["as_of"])
            for bucket, topics in named.topics.items()
        }
        shown: dict[int, dict[str, tuple[Feature, set[int]]]] = {b: {} for b in streams}
        for item, row in enumerate(rows):
            moment = ItemMoment(read, item)
            for at, feature in comparable:
                for bucket in self._buckets(named, moment, feature):
                    shown[bucket].setdefault(feature.name, (feature, set()))[1].add(row[at])
        behind = {b: self._states.behind(streams[b], shown[b].values()) for b in streams}
        known: dict[frozenset[int], Streams] = {}

        def formed(buckets: frozenset[int]) -> Streams:
            if buckets not in known:
                # Context alone is formed from none.
                of = sorted(buckets) or [named.first]
                known[buckets] = (
                    [one for bucket in of for one in named.topics[bucket]],
                    merged([streams[bucket] for bucket in of]),
                    reduce(or_, (behind[bucket] for bucket in of)),
                )
            return known[buckets]

        return formed

    def _explain(
        self,
        fields: Mapping[str, Any],
        positions: BucketPositions,
        read: Read,
        item: int,
        feature: Feature,
        check: str,
        expected: int,
        found: int,
        where: str,
    ) -> None:
        self._explained += 1
        if self._explained > _EXPLAINED:
            self.findings.add("mismatching", check, where, "not explained")
            return
        kind, why = explain(self._prefixes, positions, fields, feature, item, found)
        windows = dict.fromkeys(window for _, window in feature.needs)
        tiles = ", ".join(
            "tiles ({}, {}] of {} ms".format(*read.edges(window), window.tile_ms)
            for window in windows
        )
        text = (
            f"{feature.name} of {fields['items'][item]}{f' over {tiles}' if tiles else ''}: "
            f"expected {_shown(expected)}, found {_shown(found)}: {why}"
        )
        self.findings.add(kind, check, f"{where} item {item}", text)

    def _began_late(self, at: At, reached: Reached, fields: Mapping[str, Any]) -> bool:
        """Whether a record before a store's origin may lie in one of its windows."""
        as_of: int = fields["as_of"]
        reach_ms = self._states.longest_ms + self._rules.future_ms
        return self._arrivals.before(at, reached.origin) > as_of - reach_ms

    def _check_complete(
        self,
        fields: Mapping[str, Any],
        whole: BucketPositions,
        compared: list[tuple[int, Feature, int]],
        where: str,
    ) -> None:
        """A value that is not ``rebuilding`` must not miss what lies before the store's origin."""
        read = Read(self._prefixes, whole, fields)
        for item, feature, bits in compared:
            complete = float32_bits(value(feature, ItemMoment(read, item)))
            if complete != bits:
                text = (
                    f"{feature.name}: must be rebuilding: with the records before the store's "
                    f"origin it is {_shown(complete)}"
                )
                self.findings.add("mismatching", "states", f"{where} item {item}", text)


def _shown(bits: int) -> str:
    number = struct.unpack("<f", struct.pack("<I", bits))[0]
    return f"{number!r} (0x{bits:08x})"
