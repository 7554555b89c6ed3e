"""The door of the snapshots topic: which snapshots count, and why the others do not.

Pure, like ``door.py``: the verdict follows from the record and the arrival before it. The joiner
is the one component that judges this topic.
"""

from __future__ import annotations

from dataclasses import dataclass

from tenuto.snapshot.record import SnapshotError, decode
from tenuto.snapshot.samples import PlacedSnapshot
from tenuto.streams.door import Limits, Records, running_arrival
from tenuto.streams.heartbeats import is_end, is_heartbeat
from tenuto.streams.partitions import partition_of
from tenuto.streams.refusals import Reason, Refusal, reason_text, shown


@dataclass(frozen=True, slots=True)
class AcceptedSnapshots:
    """What of a batch of snapshots counts.

    Attributes:
        placed: the snapshots, in offset order.
        refused: the others.
        arrival_after: arrival of the partition after the batch.
        ended: whether the batch held a replay's end mark.
    """

    placed: list[PlacedSnapshot]
    refused: list[Refusal]
    arrival_after: int
    ended: bool


def judge_snapshots(limits: Limits, records: Records, arrival_before: int) -> AcceptedSnapshots:
    """Judge one batch of one partition; ``limits.rules.snapshot_lateness_ms`` is the tolerance."""
    placed: list[PlacedSnapshot] = []
    refused: list[Refusal] = []
    ended = False
    arrivals = running_arrival(records.timestamps_ms, arrival_before).tolist()
    for at, value in enumerate(records.values):
        if is_heartbeat(value, records.headers[at]):
            ended = ended or is_end(records.headers[at])
            continue
        offset, arrival = int(records.offsets[at]), arrivals[at]
        verdict = _verdict(limits, records.partition, value, offset, arrival)
        if isinstance(verdict, PlacedSnapshot):
            placed.append(verdict)
            continue
        reason, subject, what, rule = verdict
        topic, partition = records.topic, records.partition
        text = reason_text(subject, what, rule, topic=topic, partition=partition, offset=offset)
        timestamp_ms = int(records.timestamps_ms[at])
        key = records.keys[at]
        refused.append(Refusal(topic, partition, offset, reason, text, value, key, timestamp_ms))
    after = int(arrivals[-1]) if arrivals else arrival_before
    return AcceptedSnapshots(placed, refused, after, ended)


def _verdict(
    limits: Limits, partition: int, value: bytes | None, offset: int, arrival: int
) -> PlacedSnapshot | tuple[Reason, str, str, str]:
    if not value:
        return Reason.EMPTY, "snapshot", "(empty)", "must be a MessagePack map"
    if len(value) > limits.max_record_bytes:
        rule = f"must have at most {limits.max_record_bytes} bytes (has {len(value)})"
        return Reason.OVERSIZED, "snapshot", shown(value), rule
    try:
        snapshot = decode(value)
    except SnapshotError as error:
        subject, _, rule = str(error).partition(": ")
        reason = Reason.VERSION if subject == "v" else Reason.FIELD
        return (Reason.MALFORMED if subject == "snapshot" else reason), subject, "(snapshot)", rule
    home = int(partition_of([snapshot.request_id], limits.n_partitions)[0])
    if home != partition:
        rule = f"must be in partition {home} of {limits.n_partitions} (murmur2 of the request_id)"
        return Reason.MISPLACED, "request_id", shown(snapshot.request_id), rule
    age = arrival - snapshot.request_ts
    if age > limits.rules.snapshot_lateness_ms:
        rule = (
            f"must be at most {limits.rules.snapshot_lateness_ms} ms before its arrival (is {age})"
        )
        return Reason.LATE, "request_ts", str(snapshot.request_ts), rule
    if age < -limits.rules.future_ms:
        rule = f"must be at most {limits.rules.future_ms} ms after its arrival (is {-age})"
        return Reason.FUTURE, "request_ts", str(snapshot.request_ts), rule
    return PlacedSnapshot(snapshot, offset, arrival)
