"""Which state a value may have, as far as a snapshot and the log tell.

A snapshot carries no ``rebuild_until``: whether a store was still behind it is only known in so far
as every column of the same streams must say so too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tenuto.features.feature import Feature
from tenuto.features.rules import TimeRules
from tenuto.snapshot.audit.log import RecordedLog
from tenuto.snapshot.audit.snapshot_positions import Arrivals, TopicPositions
from tenuto.snapshot.audit.stored import StoredEntity

FRESH, MISSING, STALE, REBUILDING = range(4)
_UNKNOWN_LAG_MS = 2**62
STATE_NAMES = {FRESH: "fresh", MISSING: "missing", STALE: "stale", REBUILDING: "rebuilding"}


@dataclass(frozen=True, slots=True)
class Stream:
    """One topic at a read.

    Attributes:
        absent: the store did not know a partition of it.
        can_be_behind: a partition was not read to the log's end.
        lag_ms: how far the slowest partition's arrival lay behind ``as_of``, at least and at most.
        joined_ms: how far behind ``as_of`` the latest partition's origin arrived; None where all
            are read from the log's first record on.
    """

    absent: bool
    can_be_behind: bool
    lag_ms: tuple[int, int]
    joined_ms: int | None


def merged(streams: Sequence[dict[str, Stream]]) -> dict[str, Stream]:
    """What a value sees that is formed from several buckets: the worst of each topic."""
    if len(streams) == 1:
        return streams[0]
    return {topic: _worst([one[topic] for one in streams]) for topic in streams[0]}


def _worst(streams: Sequence[Stream]) -> Stream:
    joined = [stream.joined_ms for stream in streams if stream.joined_ms is not None]
    return Stream(
        any(stream.absent for stream in streams),
        any(stream.can_be_behind for stream in streams),
        (max(s.lag_ms[0] for s in streams), max(s.lag_ms[1] for s in streams)),
        min(joined, default=None),
    )


@dataclass(frozen=True, slots=True)
class Behind:
    """Topics that a store had not read up to where it was being rebuilt.

    Attributes:
        surely: all columns that they feed say ``rebuilding``.
        perhaps: no column says: what they feed was not read.
    """

    surely: frozenset[str]
    perhaps: frozenset[str]

    def __or__(self, other: Behind) -> Behind:
        return Behind(self.surely | other.surely, self.perhaps | other.perhaps)


class StateRules:
    """States by declaration; times from the log."""

    def __init__(
        self,
        features: Iterable[Feature],
        rules: TimeRules,
        stored: Sequence[StoredEntity],
        log: RecordedLog,
        arrivals: Arrivals,
    ) -> None:
        self._rules, self._log, self._arrivals = rules, log, arrivals
        self._topics = {feature.name: sorted(feature.topics) for feature in features}
        self._longest = {
            s.entity.name: (
                sorted({cell.measure.event.name for cell in s.longest.cells}),
                s.longest.window.length_ms,
            )
            for s in stored
        }
        self._sources_of: dict[tuple[str, bool], list[tuple[list[str], int]]] = {}
        self._has_start = any(
            part.start
            for s in stored
            for topic in s.topics
            for part in log.topics[topic].partitions
        )
        self.longest_ms = max((ms for _, ms in self._longest.values()), default=0)

    def streams(self, topics: Sequence[TopicPositions], as_of: int) -> dict[str, Stream]:
        """Each topic at a read of one bucket."""
        return {one.topic: self._stream(one, as_of) for one in topics}

    def behind(
        self, streams: dict[str, Stream], shown: Iterable[tuple[Feature, Iterable[int]]]
    ) -> Behind:
        """Topics that a bucket was behind in.

        Args:
            streams: of one bucket.
            shown: features with the states of their values that come from that bucket.
        """
        can_be = {topic for topic, stream in streams.items() if stream.can_be_behind}
        told: set[str] = set()
        is_there: set[str] = set()
        for feature, states in shown:
            fed = self._topics[feature.name]
            told.update(fed)
            if any(state != REBUILDING for state in states):
                is_there.update(fed)
        return Behind(frozenset((can_be & told) - is_there), frozenset(can_be - told))

    def must_rebuild(self, feature: Feature, streams: dict[str, Stream], is_seen: bool) -> bool:
        """Whether a store that knows what the snapshot says calls the value ``rebuilding``."""
        return any(
            streams[topic].absent
            or (age_ms is not None and age_ms < window_ms + self._rules.future_ms)
            for topics, window_ms in self._sources(feature, is_seen)
            for topic in topics
            for age_ms in [streams[topic].joined_ms]
        )

    def allowed(
        self,
        feature: Feature,
        streams: dict[str, Stream],
        behind: Behind,
        is_nan: bool,
        is_seen: bool,
    ) -> set[int]:
        """The states that a value may have; one, but where the snapshot does not say enough.

        Args:
            is_nan: whether the value is missing.
            is_seen: whether its entity was counted in its longest window.
        """
        topics = {topic for fed, _ in self._sources(feature, is_seen) for topic in fed}
        if self.must_rebuild(feature, streams, is_seen) or not behind.surely.isdisjoint(topics):
            return {REBUILDING}
        found = set() if behind.perhaps.isdisjoint(topics) else {REBUILDING}
        for end in (0, 1):
            lags = [streams[topic].lag_ms[end] for topic in topics]
            is_stale = any(lag_ms > feature.fresh_within_ms for lag_ms in lags)
            found.add(STALE if is_stale else MISSING if is_nan else FRESH)
        return found

    def may_be_known(
        self, feature: Feature, topics: Sequence[TopicPositions], streams: dict[str, Stream]
    ) -> bool:
        """Whether only records that the log has lost may say that an entity was seen.

        Where a gap moved a store's origin on, the store still has what it read before it.
        """
        if feature.missing_with is None or not self._has_start:
            return False
        return (
            self.must_rebuild(feature, streams, is_seen=False)
            and not self.must_rebuild(feature, streams, is_seen=True)
            and any(
                0 < reached.origin <= self._log.topics[one.topic].partitions[partition].start
                for one in topics
                for partition, reached in enumerate(one.partitions)
            )
        )

    def is_cut(
        self, feature: Feature, topics: Sequence[TopicPositions], as_of: int, is_seen: bool
    ) -> bool:
        """Whether the log no longer holds a record that the value may need.

        Args:
            topics: in each bucket that it is formed from.
        """
        if not self._has_start:
            return False
        for fed, window_ms in self._sources(feature, is_seen):
            reach_ms = window_ms + self._rules.future_ms
            for one in topics:
                if one.topic not in fed or not one.entered:
                    continue
                for partition, reached in enumerate(one.partitions):
                    start = self._log.topics[one.topic].partitions[partition].start
                    if reached.origin >= start:
                        continue
                    first_ms = self._arrivals.at((one.topic, partition), start)
                    if not first_ms or first_ms + reach_ms > as_of:
                        return True
        return False

    def _sources(self, feature: Feature, is_seen: bool) -> list[tuple[list[str], int]]:
        """Topics and how far back of them a value needs.

        That an entity was not seen follows from all that its longest window counts.
        """
        known = self._sources_of.get((feature.name, is_seen))
        if known is not None:
            return known
        found = [(self._topics[feature.name], feature.window_ms)]
        self._sources_of[feature.name, is_seen] = found
        if not is_seen and feature.missing_with is not None:
            found.append(self._longest[feature.missing_with.entity.name])
        return found

    def _stream(self, one: TopicPositions, as_of: int) -> Stream:
        least = most = -_UNKNOWN_LAG_MS
        joined: int | None = None
        behind = False
        for partition, reached in enumerate(one.partitions):
            at = one.topic, partition
            log = self._log.topics[one.topic].partitions[partition]
            # At zero the store may not even have known the partition.
            behind = behind or reached.next < log.end or reached.next == 0
            if 0 < reached.next <= log.start:
                # What had arrived before the gap, the log no longer says.
                least = max(least, as_of - self._arrivals.at(at, log.start))
                most = _UNKNOWN_LAG_MS
            else:
                least = max(least, as_of - self._arrivals.before(at, reached.next))
                most = max(most, as_of - self._arrivals.since(at, reached.origin, reached.next))
            if reached.origin:
                # Until a record comes after a gap, nobody knows when the gap ends.
                behind = behind or reached.next == reached.origin
                origin_ms = self._arrivals.at(at, reached.origin)
                if origin_ms:
                    age_ms = as_of - origin_ms
                    joined = age_ms if joined is None else min(joined, age_ms)
        return Stream(not one.entered, behind, (least, most), joined)
