"""The features of a snapshot, counted again from the log: values, states, schema and positions."""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Mapping
from typing import Any

from tenuto.features.feature import Feature
from tenuto.features.schema import FeatureSet
from tenuto.snapshot.audit.explaining import explain, place
from tenuto.snapshot.audit.findings import Findings
from tenuto.snapshot.audit.formulas import float32_bits, is_shared, value
from tenuto.snapshot.audit.judging import JudgedEvent, JudgedSnapshot, JudgedTopic
from tenuto.snapshot.audit.log import RecordedLog
from tenuto.snapshot.audit.moment import ItemMoment, Read
from tenuto.snapshot.audit.prefix import At, Prefixes, Reached
from tenuto.snapshot.audit.snapshot_positions import Arrivals, TopicPositions, read_positions
from tenuto.snapshot.audit.stored import stored_entities
from tenuto.snapshot.audit.value_states import REBUILDING, STATE_NAMES, StateRules

# An explanation tries many prefixes: beyond so many, a wrong value is only counted.
_EXPLAINED = 30


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
        topics, faults = read_positions(fields["log"], self._topics, self._log)
        for fault in faults:
            self.findings.add("mismatching", "positions", where, fault)
        if faults:
            for check in ("values", "states"):
                self.findings.unverifiable[check] += cells
            return
        positions = {
            (one.topic, partition): reached
            for one in topics
            for partition, reached in enumerate(one.partitions)
        }
        if not self._leaks(snapshot, positions, where):
            self.findings.equal("positions")
        self._compare(fields, topics, positions, comparable, where)

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

    def _leaks(self, snapshot: JudgedSnapshot, positions: Mapping[At, Reached], where: str) -> bool:
        """Whether the snapshot's time or its positions say more than its request could know."""
        fields, future_ms = snapshot.fields, self._rules.future_ms
        texts = []
        ahead_ms = fields["as_of"] - fields["request_ts"]
        if ahead_ms > future_ms:
            texts.append(f"as_of is {ahead_ms} ms after its request")
        for at, reached in positions.items():
            end = reached.end if reached.done else reached.next
            arrival = self._arrivals.before(at, end)
            if arrival > snapshot.arrival_ms + future_ms:
                texts.append(
                    f"{at[0]}[{at[1]}] is read up to {end}, which arrived at {arrival}: "
                    f"{arrival - snapshot.arrival_ms} ms after the snapshot itself"
                )
        for event in self._by_request.get(fields["request_id"], ()):
            reached = positions[event.event, event.partition]
            if event.fields["ts"] >= fields["request_ts"] and self._is_inside(event, reached):
                texts.append(f"{place(event)}, an event of its own request, is in its prefix")
        for text in texts:
            self.findings.add("leaking", "positions", where, text)
        return bool(texts)

    def _is_inside(self, event: JudgedEvent, reached: Reached) -> bool:
        if event.offset < reached.end and event.offset >= reached.next:
            return any(
                stored.chunk(stored.ids(event.fields), reached.chunks) < reached.done
                for stored in self._prefixes.stored.values()
                if event.event in stored.topics
            )
        return reached.origin <= event.offset < reached.next

    def _compare(
        self,
        fields: Mapping[str, Any],
        topics: list[TopicPositions],
        positions: Mapping[At, Reached],
        comparable: list[tuple[int, Feature]],
        where: str,
    ) -> None:
        findings, m = self.findings, len(fields["columns"])
        values = struct.unpack(f"<{len(fields['values']) // 4}I", fields["values"])
        states: bytes = fields["states"]
        read = Read(self._prefixes, positions, fields)
        whole = {at: Reached(0, r.next, r.end, r.chunks, r.done) for at, r in positions.items()}
        # Asked about later: it moves the entities' tiles away from this prefix, and back.
        left_out = [
            at for at, r in positions.items() if r.origin and self._began_late(at, r, fields)
        ]
        features = [feature for _, feature in comparable]
        streams = self._states.streams(topics, fields["as_of"])
        rows = [states[item * m : item * m + m] for item in range(len(fields["items"]))]
        behind = self._states.behind(streams, features, [[row[at] for at, _ in comparable]
                                                         for row in rows])  # fmt: skip
        if m > len(comparable):
            for check in ("values", "states"):
                findings.unverifiable[check] += len(rows) * (m - len(comparable))
        equal = {"values": 0, "values (formula shared)": 0, "states": 0}
        wrong: list[tuple[int, Feature, str, int, int]] = []
        incomplete: list[tuple[int, Feature, int]] = []
        known: dict[tuple[int, bool, bool], tuple[bool, set[int]]] = {}
        for item, row in enumerate(rows):
            moment = ItemMoment(read, item)
            for at, feature in comparable:
                check = "values (formula shared)" if is_shared(feature) else "values"
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
                asked = at, math.isnan(number), seen
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

    def _explain(
        self,
        fields: Mapping[str, Any],
        positions: Mapping[At, Reached],
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
        whole: Mapping[At, Reached],
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
