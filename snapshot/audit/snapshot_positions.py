"""The log positions that a snapshot names, and whether there are such in the log."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tenuto.snapshot.audit.judging import JudgedEvent, JudgedTopic
from tenuto.snapshot.audit.log import RecordedLog
from tenuto.snapshot.audit.prefix import At, BucketPositions, Reached

_UNKNOWN = bytes(16)


@dataclass(frozen=True, slots=True)
class TopicPositions:
    """One topic's partitions as a snapshot saw them; ``entered`` is False before any was."""

    topic: str
    entered: bool
    partitions: tuple[Reached, ...]


class Arrivals:
    """Arrival at each offset of the event topics, from the judged log."""

    def __init__(self, log: RecordedLog, events: Mapping[str, JudgedTopic[JudgedEvent]]) -> None:
        self._log = log
        self._offsets: dict[At, list[int]] = {}
        self._arrivals: dict[At, list[int]] = {}
        for topic, judged in events.items():
            for partition, found in enumerate(judged.arrivals):
                self._offsets[topic, partition] = [offset for offset, _ in found]
                self._arrivals[topic, partition] = [arrival for _, arrival in found]

    def before(self, at: At, offset: int) -> int:
        """Arrival of the records before an offset, 0 without any."""
        index = bisect_left(self._offsets[at], offset)
        return self._arrivals[at][index - 1] if index else 0

    def at(self, at: At, offset: int) -> int:
        """Arrival at the first record that is not before an offset, 0 without one."""
        index = bisect_left(self._offsets[at], offset)
        return self._arrivals[at][index] if index < len(self._offsets[at]) else 0

    def since(self, at: At, origin: int, offset: int) -> int:
        """Largest timestamp of the records ``[origin, offset)``, 0 without any."""
        whole = self.before(at, offset)
        if origin == 0 or whole > self.before(at, origin):
            return whole
        topic, partition = at
        records = self._log.topics[topic].partitions[partition].records
        low, high = (bisect_left(self._offsets[at], o) for o in (origin, offset))
        return max((record.timestamp_ms for record in records[low:high]), default=0)


@dataclass(frozen=True, slots=True)
class NamedPositions:
    """What a snapshot's ``log`` says: how many buckets there are, and of those read each topic."""

    buckets: int
    topics: Mapping[int, Sequence[TopicPositions]]

    @property
    def first(self) -> int:
        """The least bucket that was read."""
        return min(self.topics)

    @property
    def positions(self) -> BucketPositions:
        return BucketPositions(
            self.buckets,
            {
                bucket: {
                    (one.topic, partition): reached
                    for one in topics
                    for partition, reached in enumerate(one.partitions)
                }
                for bucket, topics in self.topics.items()
            },
        )


def read_positions(
    named: Mapping[str, Any], topics: Sequence[str], log: RecordedLog
) -> tuple[NamedPositions, list[str]]:
    """What a snapshot's ``log`` says of each topic, and what of it cannot be.

    Args:
        named: the snapshot's field ``log``.
        topics: that feed the declared features, sorted.
    """
    n = log.partitions
    nothing = NamedPositions(1, {0: []})
    if named["topics"] != list(topics):
        return nothing, [f"topics {named['topics']}: must be {list(topics)}"]
    if named["partitions"] != n:
        return nothing, [f"{named['partitions']} partitions a topic: the log has {n}"]
    size = n * len(topics)
    if not len(named["origin"]) == len(named["next"]) == size:
        return nothing, [f"{len(named['next'])} positions: must be {size}"]
    if len(named["incarnations"]) != 16 * len(topics):
        return nothing, ["incarnations: must be 16 bytes a topic"]
    read = named["read"] or [0]
    if (
        read != sorted(set(read))
        or not read[-1] < named["buckets"]
        or ((named["buckets"] > 1) != bool(named["read"]))
    ):
        return nothing, [f"buckets {named['read']} of {named['buckets']}: must ascend"]
    faults: list[str] = []
    batches: dict[int, tuple[int, int, int]] = {}
    for batch in named["batches"]:
        if len(batch) != 4 or batch[0] >= size or batch[0] in batches or batch[3] >= batch[2]:
            faults.append(f"batch {batch}: must be [index, end, chunks, done], done below chunks")
        else:
            batches[batch[0]] = (batch[1], batch[2], batch[3])
    first = [
        Reached(named["origin"][at], named["next"][at], *batches.get(at, (0, 0, 0)))
        for at in range(size)
    ]
    reached = {bucket: list(first) for bucket in read}
    for one in named["differing"]:
        if (
            len(one) != 7
            or one[0] not in read[1:]
            or one[1] >= size
            or (one[4] and one[6] >= one[5])
        ):
            faults.append(
                f"differing {one}: must be [bucket, index, origin, next, end, chunks, done] of "
                "another bucket that was read"
            )
        else:
            reached[one[0]][one[1]] = Reached(*one[2:])
    found: dict[int, list[TopicPositions]] = {}
    for bucket in read:
        told = f"bucket {bucket} " if named["buckets"] > 1 else ""
        found[bucket] = []
        for index, topic in enumerate(topics):
            life = named["incarnations"][16 * index : 16 * index + 16]
            partitions = tuple(reached[bucket][index * n : index * n + n])
            entered = life != _UNKNOWN
            if entered and life != log.topics[topic].incarnation and bucket == read[0]:
                faults.append(f"{topic}: incarnation {life.hex()}: the log's is another one")
            for partition, one in enumerate(partitions):
                where = f"{told}{topic}[{partition}]"
                faults += _faults(where, entered, one, log, topic, partition)
            found[bucket].append(TopicPositions(topic, entered, partitions))
    return NamedPositions(named["buckets"], found), faults


def _faults(
    where: str, entered: bool, reached: Reached, log: RecordedLog, topic: str, partition: int
) -> list[str]:
    end = log.topics[topic].partitions[partition].end
    if not entered and (reached.next or reached.end):
        return [f"{where}: next {reached.next} of a topic without an incarnation"]
    # A gap may have cut a batch in progress: the rest of it begins behind the gap.
    if reached.origin > max(reached.next, reached.end):
        return [f"{where}: next {reached.next}: must not be before its origin {reached.origin}"]
    furthest = max(reached.next, reached.end)
    if furthest > end:
        return [f"{where}: {furthest}: the log ends at {end}"]
    if reached.end and reached.end <= reached.next:
        return [f"{where}: batch end {reached.end}: must be beyond next {reached.next}"]
    return []
