"""A request's way through the log: its snapshots, its label events, and what became of its rows.

Pure: verdicts on records that were found, by the doors that judge them in production, and what is
still waited for. Finding them is ``request_search.py``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import orjson

from tenuto.features.rules import TimeRules
from tenuto.inspection.partition_log import Kept
from tenuto.snapshot.label_needs import EventNeeds
from tenuto.snapshot.record import Snapshot, SnapshotError, decode
from tenuto.streams.codec import EventCodec
from tenuto.streams.dead_letters import DeadLetter
from tenuto.streams.door import Limits, judge
from tenuto.streams.snapshot_door import judge_snapshots


@dataclass(frozen=True)
class FoundSnapshot:
    """A snapshot of the request.

    Attributes:
        arrival_ms: of its partition at it.
        snapshot: None where the record cannot be decoded.
        reason, refused: why it does not count; empty where it does.
    """

    topic: str
    partition: int
    offset: int
    arrival_ms: int
    snapshot: Snapshot | None
    reason: str = ""
    refused: str = ""


@dataclass(frozen=True)
class FoundEvent:
    """An event record of the request.

    Attributes:
        fields: as decoded; empty where it was refused.
        reason, refused: why it does not count; empty where it does.
        dead_letter: whether its dead letter is there.
    """

    event: str
    topic: str
    partition: int
    offset: int
    arrival_ms: int
    fields: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    refused: str = ""
    dead_letter: bool = False


@dataclass(frozen=True)
class Front:
    """One label topic's partition: the arrival it must pass, and where its log stands."""

    event: str
    topic: str
    needs_ms: int
    stands_ms: int

    @property
    def passed(self) -> bool:
        return self.stands_ms > self.needs_ms


@dataclass(frozen=True)
class Joined:
    """What one sample stream made of one snapshot.

    Attributes:
        verdict: ``joined`` (rows are there), ``waiting`` (a label can still come), ``final`` (none
            can, and the joiner has yet to say so), ``refused`` (it does not count) or ``absent``
            (the joiner has passed it without rows).
        final_after_ms: arrival that the slowest label topic must pass, request_ts + H.
        fronts: by label event.
        emitted_to: snapshot offset up to which the joiner has emitted; None before any.
        place: of the samples record.
        rows: by column, one dict a shown item.
    """

    stream: str
    topic: str
    verdict: str
    final_after_ms: int
    fronts: list[Front] = field(default_factory=list)
    emitted_to: int | None = None
    place: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class RequestReport:
    """Everything about one request; ``notes`` say what was not looked through."""

    request_id: str
    partition: int
    snapshots: list[FoundSnapshot]
    events: list[FoundEvent]
    samples: list[list[Joined]]
    other_dead_letters: list[DeadLetter]
    notes: list[str]


def mentions(request_id: str, record: Any) -> bool:
    """Whether a record may be of the request: by its key, or because its bytes hold the id."""
    key, value = request_id.encode(), record.value or b""
    return bool(record.key == key or key in value or orjson.dumps(request_id) in value)


def snapshot_verdict(request_id: str, limits: Limits, kept: Kept) -> FoundSnapshot | None:
    """The snapshot in a record, judged; None if it is another request's."""
    record = kept.record
    place = (record.topic, record.partition, record.offset, kept.arrival_ms)
    accepted = judge_snapshots(limits, kept.batch, kept.arrival_ms)
    for placed in accepted.placed:
        if placed.snapshot.request_id == request_id:
            return FoundSnapshot(*place, placed.snapshot)
    for refusal in accepted.refused:
        snapshot = _decoded(record.value)
        if (snapshot is None and record.key == request_id.encode()) or (
            snapshot is not None and snapshot.request_id == request_id
        ):
            return FoundSnapshot(*place, snapshot, refusal.reason.value, refusal.text)
    return None


def event_verdict(
    request_id: str, codec: EventCodec, limits: Limits, kept: Kept
) -> FoundEvent | None:
    """The event in a record, judged; None if it is another request's."""
    record = kept.record
    place = (codec.event.name, record.topic, record.partition, record.offset, kept.arrival_ms)
    accepted = judge(codec, limits, kept.batch, kept.arrival_ms)
    for refusal in accepted.refused:
        if _is_of(request_id, refusal.key, refusal.value or b""):
            return FoundEvent(*place, {}, refusal.reason.value, refusal.text)
    for index in range(len(accepted)):
        fields = {name: _plain(column[index]) for name, column in accepted.columns.items()}
        if fields["request_id"] == request_id:
            return FoundEvent(*place, fields)
    return None


def of_request(letter: DeadLetter, request_id: str) -> bool:
    """Whether a dead letter is of the request."""
    if _is_of(request_id, letter.key, letter.value):
        return True
    snapshot = _decoded(letter.value) if request_id.encode() in letter.value else None
    return snapshot is not None and snapshot.request_id == request_id


def fronts_of(
    request_ts_ms: int,
    rules: TimeRules,
    needs: Mapping[str, EventNeeds],
    topics: Mapping[str, str],
    stands_ms: Mapping[str, int],
) -> list[Front]:
    """What each label topic must pass before the request's rows are final, and where it stands."""
    return [
        Front(
            event,
            topics[event],
            request_ts_ms + need.reach_ms + rules.lateness_ms,
            stands_ms.get(event, -1),
        )
        for event, need in needs.items()
    ]


def _is_of(request_id: str, key: bytes | None, value: bytes) -> bool:
    if key == request_id.encode():
        return True
    if orjson.dumps(request_id) not in value:
        return False
    try:
        return bool(_id_decoder.decode(value).request_id == request_id)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False


class _OnlyId(msgspec.Struct):
    request_id: Any = None


_id_decoder = msgspec.json.Decoder(_OnlyId)


def _decoded(value: bytes | None) -> Snapshot | None:
    try:
        return decode(value or b"")
    except SnapshotError:
        return None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
