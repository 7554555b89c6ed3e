"""The log positions that a snapshot names, and whether there are such in the log."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tenuto.snapshot.audit.judging import JudgedEvent, JudgedTopic
from tenuto.snapshot.audit.log import RecordedLog
from tenuto.snapshot.audit.prefix import At, Reached

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


def read_positions(
    named: Mapping[str, Any], topics: Sequence[str], log: RecordedLog
) -> tuple[list[TopicPositions], list[str]]:
    """What a snapshot's ``log`` says of each topic, and what of it cannot be.

    Args:
        named: the snapshot's field ``log``.
        topics: that feed the declared features, sorted.
    """
    n = log.partitions
    if named["topics"] != list(topics):
        return [], [f"topics {named['topics']}: must be {list(topics)}"]
    if named["partitions"] != n:
        return [], [f"{named['partitions']} partitions a topic: the log has {n}"]
    size = n * len(topics)
    if not len(named["origin"]) == len(named["next"]) == size:
        return [], [f"{len(named['next'])} positions: must be {size}"]
    if len(named["incarnations"]) != 16 * len(topics):
        return [], ["incarnations: must be 16 bytes a topic"]
    faults: list[str] = []
    batches: dict[int, tuple[int, int, int]] = {}
    for batch in named["batches"]:
        if len(batch) != 4 or batch[0] >= size or batch[0] in batches or batch[3] >= batch[2]:
            faults.append(f"batch {batch}: must be [index, end, chunks, done], done below chunks")
        else:
            batches[batch[0]] = (batch[1], batch[2], batch[3])
    found = []
    for index, topic in enumerate(topics):
        life = named["incarnations"][16 * index : 16 * index + 16]
        entered = life != _UNKNOWN
        if entered and life != log.topics[topic].incarnation:
            faults.append(f"{topic}: incarnation {life.hex()}: the log's is another one")
        partitions = []
        for partition in range(n):
            at = index * n + partition
            reached = Reached(named["origin"][at], named["next"][at], *batches.get(at, (0, 0, 0)))
            partitions.append(reached)
            faults += _faults(f"{topic}[{partition}]", entered, reached, log, topic, partition)
        found.append(TopicPositions(topic, entered, tuple(partitions)))
    return found, faults


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
