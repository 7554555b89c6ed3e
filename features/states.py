"""How far each value of a read can be trusted: what the progress beside it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenuto.features.entities import Counter, Entity
from tenuto.features.feature import Feature, Floats
from tenuto.features.layout import View
from tenuto.features.matrix import State
from tenuto.features.schema import FeatureSet
from tenuto.features.sums import Ints

_FRESH, _MISSING, _STALE, _REBUILDING = (np.uint8(state) for state in State)


class _Asked(NamedTuple):
    """What a state follows from.

    Attributes:
        topics: indices of those that feed the value.
        fresh_within_ms: how far they may lie behind.
        window_ms: the longest that counts.
    """

    topics: tuple[int, ...]
    fresh_within_ms: int
    window_ms: int


class _Rule(NamedTuple):
    """Of one column.

    Attributes:
        entities: those that decide a value, and whether it is there.
        own: of a value itself.
        unseen: of a value that is missing because this counter's entity was never seen.
    """

    entities: frozenset[Entity]
    own: _Asked
    unseen: tuple[Counter, _Asked] | None


class StateRules:
    """Says the states of the values of one feature set."""

    def __init__(self, features: FeatureSet) -> None:
        self._future_ms = features.layout.rules.future_ms
        self._topic_index = {topic: i for i, topic in enumerate(features.layout.topics)}
        # That an entity was never seen follows from all that its longest window counts.
        seen_by = {view.entity: self._seeing(view) for view in features.layout.views}
        self._rules = [self._rule(feature, seen_by) for feature in features.features]

    def of(
        self,
        formed: Floats,
        known: Callable[[Counter], NDArray[np.bool_]],
        progress: Sequence[NDArray[Any]],
        as_of_ms: int,
        bucket_places: Callable[[Entity], Ints],
    ) -> NDArray[np.uint8]:
        """The state of each value; of several the highest holds.

        Args:
            formed: the values, ``(n, features)``, NaN where one is missing.
            known: whether each item's entity was ever seen, by a counter of it, ``(n,)``.
            progress: of each bucket that was read, ``(topics, partitions)`` of
                ``PROGRESS_DTYPE``.
            as_of_ms: the moment of the read.
            bucket_places: which of these buckets each of an entity's keys is in, ``(n,)`` or
                ``(1,)``; asked where there are several.

        Returns:
            ``(n, features) uint8`` of :class:`State`.
        """
        read = _AsRead(partial(self._streams, as_of_ms), progress, as_of_ms, bucket_places)
        states = np.isnan(formed) * _MISSING
        for column, rule in zip(states.T, self._rules, strict=True):
            own = read.worst(rule.own)
            if own:
                np.maximum(column, read.states(rule.own, rule.entities), out=column)
            if rule.unseen is None:
                continue
            counter, asked = rule.unseen
            worst = read.worst(asked)
            # Of one bucket, a state holds for all items: one that is no worse says nothing more.
            if worst > own or (worst and len(progress) > 1):
                unseen = ~known(counter) * read.states(asked, rule.entities)
                np.maximum(column, unseen, out=column)
        return states

    def _seeing(self, view: View) -> tuple[tuple[int, ...], int]:
        ring = view.rings[view.longest]
        events = {cell.measure.event.name for cell in ring.cells}
        return tuple(self._topic_index[event] for event in sorted(events)), ring.window.length_ms

    def _rule(self, feature: Feature, seen_by: dict[Entity, tuple[tuple[int, ...], int]]) -> _Rule:
        entities = {counter.entity for counter, _ in feature.needs}
        topics = tuple(self._topic_index[topic] for topic in feature.topics)
        own = _Asked(topics, feature.fresh_within_ms, feature.window_ms)
        counter = feature.missing_with
        if counter is None:
            return _Rule(frozenset(entities), own, None)
        seeing, longest_ms = seen_by[counter.entity]
        unseen = counter, _Asked(seeing, feature.fresh_within_ms, longest_ms)
        return _Rule(frozenset(entities | {counter.entity}), own, unseen)

    def _streams(self, as_of_ms: int, entries: NDArray[Any]) -> _Streams:
        lag = (as_of_ms - entries["arrival"]).max(axis=1).tolist()
        absent = entries["incarnation"] == b""
        behind = (absent | (entries["next"] < entries["rebuild_until"])).any(axis=1).tolist()
        # A record before the origin arrived no later, and may say that it is of the future.
        joined = np.where(entries["origin"] > 0, entries["origin_arrival"], 0).max(axis=1).tolist()
        missing_before = [at + self._future_ms if at else 0 for at in joined]
        return lag, list(zip(behind, missing_before, strict=True))


_Streams = tuple[list[int], list[tuple[bool, int]]]
"""Per topic: how far its slowest partition lies behind, and whether it is being rebuilt.

The second is (not all there yet, what is missing was before that time).
"""


class _AsRead:
    """States as of one read: a value has the worst of the buckets that it is formed from."""

    def __init__(
        self,
        streams_of: Callable[[NDArray[Any]], _Streams],
        progress: Sequence[NDArray[Any]],
        as_of_ms: int,
        bucket_places: Callable[[Entity], Ints],
    ) -> None:
        self._streams_of = streams_of
        self._progress = progress
        self._as_of_ms = as_of_ms
        self._places = cache(bucket_places)
        everywhere = np.concatenate(progress, axis=1) if len(progress) > 1 else progress[0]
        # What no bucket of all that were read says, none says alone.
        self.worst = cache(partial(_state_of, streams_of(everywhere), as_of_ms))

    def states(self, asked: _Asked, entities: Iterable[Entity]) -> Any:
        """Of each item, or of all at once."""
        if len(self._progress) == 1:
            return self.worst(asked)
        by_bucket = np.array(
            [_state_of(streams, self._as_of_ms, asked) for streams in self._by_bucket], np.uint8
        )
        found: NDArray[np.uint8] = np.zeros(1, np.uint8)
        for entity in entities:
            found = np.maximum(found, by_bucket[self._places(entity)])
        return found

    @cached_property
    def _by_bucket(self) -> list[_Streams]:
        return [self._streams_of(entries) for entries in self._progress]


def _state_of(streams: _Streams, as_of_ms: int, asked: _Asked) -> np.uint8:
    lag_ms, rebuilding = streams
    found = _FRESH
    for topic in asked.topics:
        behind, joined_ms = rebuilding[topic]
        # What is missing was before the origin, and its time at most that much later.
        if behind or joined_ms > as_of_ms - asked.window_ms:
            return _REBUILDING
        if lag_ms[topic] > asked.fresh_within_ms:
            found = _STALE
    return found
