"""The audit: a recorded log judged, replayed and re-joined, and whatever differs, found and named.

Only the order of its parts is here. Each compares in plain loops what the platform computed with
what follows from the log; none shares code with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from tenuto.snapshot.audit.counts import Place, check_counts, check_letters, read_letters
from tenuto.snapshot.audit.declared import Declared
from tenuto.snapshot.audit.feature_values import FeatureAudit
from tenuto.snapshot.audit.finality import Finality
from tenuto.snapshot.audit.findings import Findings
from tenuto.snapshot.audit.judging import (
    JudgedEvent,
    JudgedSnapshot,
    JudgedTopic,
    judge_events,
    judge_snapshots,
)
from tenuto.snapshot.audit.labels import by_request
from tenuto.snapshot.audit.log import RecordedLog
from tenuto.snapshot.audit.parquet_rows import read_directory
from tenuto.snapshot.audit.sample_rows import read_topic
from tenuto.snapshot.audit.state import by_bucket, compare_state, decode_state, expected_state
from tenuto.snapshot.audit.stream_rows import StreamRows

Events = Mapping[str, JudgedTopic[JudgedEvent]]


def audit(
    declared: Declared,
    log: RecordedLog,
    *,
    share: float = 1.0,
    files: Mapping[str, Path] | None = None,
    state: Mapping[bytes, bytes] | None = None,
    strict: bool = False,
) -> Findings:
    """Audit a recorded log.

    Args:
        declared: the application and the settings that wrote it.
        log: every topic of its namespace.
        share: of the snapshots, by hash of their request, whose values and rows are compared;
            counts and dead letters are always those of all.
        files: a sink's directory, by sample stream.
        state: what the layout's keys hold in Redis, while nobody writes there.
        strict: that everything has come to its end, so that what is final must be there, also
            where no end mark says so.
    """
    findings, files = Findings(), files or {}
    partitions = log.partitions
    events: Events = {
        event.name: judge_events(
            event, log.topics[event.name], declared.rules,
            max_bytes=declared.event_bytes, partitions=partitions,
        )
        for event in declared.events
    }  # fmt: skip
    snapshots = judge_snapshots(
        log.topics["snapshots"], declared.rules,
        max_bytes=declared.snapshot_bytes, partitions=partitions,
    )  # fmt: skip
    requests = by_request(
        event for topic in events.values() for part in topic.accepted for event in part
    )
    streams = [
        StreamRows(
            declared, stream, log.topics["snapshots"],
            read_topic(stream.topic, log.topics[stream.topic], findings),
            read_directory(files[stream.name], findings) if stream.name in files else None,
            Finality(declared, stream, log, events), requests, findings,
            ended=snapshots.ended, strict=strict,
        )
        for stream in declared.samples
    ]  # fmt: skip
    outcomes = {
        column for stream in declared.samples for label in stream.labels for column in label.columns
    }
    features = FeatureAudit(declared.features, log, events, outcomes, findings)
    for partition in snapshots.accepted:
        for snapshot in partition:
            compare = in_share(snapshot.fields["request_id"], share)
            findings.snapshots += compare
            if compare:
                features.check(snapshot)
            for stream in streams:
                stream.check(snapshot, compare=compare)
    for stream in streams:
        stream.finish()

    letters = read_letters(log.topics["dead-letters"], findings)
    judged = _judged(declared)
    refused = {name: events[name].refused for name in sorted(judged)}
    refused["snapshots"] = snapshots.refused
    is_due = _due(declared, log, events, snapshots, streams, strict)
    unwritten = check_letters(log, letters, refused, is_due, findings)
    check_counts(log, streams, letters, unwritten, findings)
    if state is not None:
        _check_state(declared, log, events, state, findings)
    return findings


def in_share(request_id: str, share: float) -> bool:
    """Whether a request belongs to a share of them, always the same one."""
    digest = hashlib.sha256(request_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _check_state(
    declared: Declared,
    log: RecordedLog,
    events: Events,
    keys: Mapping[bytes, bytes],
    findings: Findings,
) -> None:
    features, rules = declared.features.features, declared.rules
    fed = {topic: events[topic] for topic in declared.features.layout.topics}
    for bucket, mine in by_bucket(keys).items():
        found = decode_state(mine, features, rules, partitions=log.partitions)
        expected = expected_state(features, rules, fed, found.entries, bucket)
        compare_state(expected, found, features, rules, log, fed, findings)


def _judged(declared: Declared) -> set[str]:
    """Events whose refused records somebody writes dead letters for."""
    read = {name for stream in declared.samples for name in declared.read_by(stream)}
    return read | set(declared.features.layout.topics)


def _due(
    declared: Declared,
    log: RecordedLog,
    events: Events,
    snapshots: JudgedTopic[JudgedSnapshot],
    streams: list[StreamRows],
    strict: bool,
) -> Callable[[Place], bool]:
    """Whether whoever judges a record is known, by the log itself, to have judged it."""
    counted = set(declared.features.layout.topics)
    applied = _applied(log, snapshots)
    arrivals = {
        (name, partition, offset): arrival
        for name, topic in events.items()
        for partition, found in enumerate(topic.arrivals)
        for offset, arrival in found
        if (partition, offset) in topic.refused
    }

    def is_due(place: Place) -> bool:
        topic, partition, offset = place
        if topic == "snapshots":
            return any(offset < stream.topic.chains[partition].to for stream in streams)
        if topic in counted:
            return strict or offset < applied.get((topic, partition), 0)
        # A joiner has read as far as the snapshots that it found final need.
        return any(
            arrivals[place] <= stream.final_ms.get(partition, 0)
            + declared.reach_ms(stream.stream, topic) + declared.rules.lateness_ms
            for stream in streams
            if topic in declared.read_by(stream.stream)
        )  # fmt: skip

    return is_due


def _applied(
    log: RecordedLog, snapshots: JudgedTopic[JudgedSnapshot]
) -> dict[tuple[str, int], int]:
    """How far each partition had been applied at the latest read that a snapshot tells of."""
    applied: dict[tuple[str, int], int] = {}
    for part in snapshots.accepted:
        for snapshot in part:
            stamp = snapshot.fields["log"]
            for number, topic in enumerate(stamp["topics"]):
                life = stamp["incarnations"][16 * number : 16 * (number + 1)]
                if topic not in log.topics or log.topics[topic].incarnation != life:
                    continue
                for partition in range(stamp["partitions"]):
                    place, at = (topic, partition), number * stamp["partitions"] + partition
                    other = [one[3] for one in stamp["differing"] if len(one) == 7 and one[1] == at]
                    applied[place] = max([applied.get(place, 0), stamp["next"][at], *other])
    return applied
