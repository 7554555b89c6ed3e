"""From a request to the keys it needs, and from their bytes to a matrix: no socket, no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenuto.features.aggregate import entity_key
from tenuto.features.bucket_keys import buckets_key, buckets_of, cluster_slot, key_prefix
from tenuto.features.entities import Counter, Entity
from tenuto.features.feature import Context, Feature, Floats
from tenuto.features.layout import View
from tenuto.features.matrix import Matrix, Stamp, State, canonical
from tenuto.features.progress import BucketCountError, unpack_all
from tenuto.features.schema import FeatureSet
from tenuto.features.sums import Ints, Selection, ViewSums
from tenuto.features.together import Formula, Wanted, formulas
from tenuto.features.windows import Window

_FRESH, _MISSING, _STALE, _REBUILDING = (np.uint8(state) for state in State)


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks what, and when.

    Attributes:
        request_id: unique; the key of everything that follows from it.
        user_id: who asks.
        query: what is asked, ``""`` for a feed.
        ts_ms: request time, epoch ms.
    """

    request_id: str
    user_id: str
    query: str
    ts_ms: int


Places = list[int | None]


class ContextError(ValueError):
    """Context that was not declared, or has another shape than declared."""


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """Keys of one read: progress first, then each view's, ``None`` where an id is not given.

    Attributes:
        read: the buckets that are read, ascending; the first keys are their progress.
        bucket_of: of each key, which of these it is in, ``(keys,)``; None where there is one.
    """

    keys: list[bytes]
    spans: list[tuple[View, Places]]
    read: tuple[int, ...] = (0,)
    bucket_of: Ints | None = None

    def by_bucket(self) -> list[tuple[int, list[int]]]:
        """The places of each bucket's keys."""
        if self.bucket_of is None:
            return [(0, list(range(len(self.keys))))]
        found: list[list[int]] = [[] for _ in self.read]
        for place, at in enumerate(self.bucket_of.tolist()):
            found[at].append(place)
        return list(zip(self.read, found, strict=True))


class Reader:
    """Plans and decodes the reads of one feature set.

    Args:
        features: the declared features.
        partitions: partition count of the input topics.
        namespace, buckets: as the workers have them.
    """

    def __init__(
        self, features: FeatureSet, partitions: int, namespace: str = "", buckets: int = 1
    ) -> None:
        self.features = features
        self.layout = features.layout
        self.partitions = partitions
        self.buckets = buckets
        self.prefixes = [
            key_prefix(self.layout, namespace, bucket, buckets).encode()
            for bucket in range(buckets)
        ]
        # Of Redis Cluster.
        self.slots = [cluster_slot(prefix.decode()) for prefix in self.prefixes]
        self.sign_slot = cluster_slot(key_prefix(self.layout, namespace))
        # Where a store that is kept in another number of buckets shows itself.
        self.signs = [
            f"{key_prefix(self.layout, namespace)}progress".encode(),
            buckets_key(self.layout, namespace).encode(),
        ]
        self._topic_index = {topic: i for i, topic in enumerate(self.layout.topics)}
        # Columns are formed one formula after the other, and then put in their order: to assign to
        # chosen columns NumPy lets other threads go first.
        self._formulas, order = _side_by_side(formulas(features.features))
        self._order = np.argsort(order)
        self._missing = _by_missing_entity(features.features)
        # Where each formula's sums lie; filled in as they are first read.
        self._selections: dict[Wanted, Selection] = {}
        # That an entity was never seen follows from all that its longest window counts.
        seen_by = {view.entity: self._seeing(view) for view in self.layout.views}
        # Each feature with what its state follows from: topics, freshness limit and longest
        # window, of the value itself and of whether its entity was seen.
        self._formed = []
        for f in features.features:
            fed = tuple(self._topic_index[t] for t in f.topics)
            counter, unseen = f.missing_with, None
            if counter is not None:
                seeing, longest_ms = seen_by[counter.entity]
                unseen = (counter, (seeing, f.fresh_within_ms, longest_ms))
            self._formed.append((f, (fed, f.fresh_within_ms, f.window_ms), unseen))

    def context(self, given: Mapping[str, Any], n: int) -> dict[str, Any]:
        """Check context against its declaration.

        Raises:
            ContextError: an undeclared name, or not one value per item where that is declared.
        """
        for name, value in given.items():
            declared = self.features.contexts.get(name)
            if declared is None:
                known = ", ".join(self.features.contexts) or "none"
                raise ContextError(f"context {name!r} is not declared: there is {known}")
            is_list = not isinstance(value, str) and hasattr(value, "__len__")
            if declared.per == "item" and (not is_list or len(value) != n):
                raise ContextError(f"context {name!r} is per item: give {n} values")
            if declared.per == "request" and is_list:
                raise ContextError(f"context {name!r} is per request: give one value")
        return dict(given)

    def plan(self, request: Request, items: Sequence[str], context: Mapping[str, Any]) -> KeyPlan:
        """The keys to fetch together: those of a bucket in one command."""
        given: dict[str, Any] = {"user_id": request.user_id, "query": request.query, **context}
        given["item_id"] = items
        # Without prefixes, as long as the buckets are not known.
        prefix = self.prefixes[0] if self.buckets == 1 else b""
        keys, spans = [prefix + b"progress"], []
        for view in self.layout.views:
            spans.append((view, self._add(view, given, len(items), keys, prefix)))
        return KeyPlan(keys, spans) if self.buckets == 1 else self._in_buckets(keys[1:], spans)

    def _in_buckets(self, keys: list[bytes], spans: list[tuple[View, Places]]) -> KeyPlan:
        buckets = buckets_of(keys, self.buckets)
        read, bucket_of = np.unique(buckets, return_inverse=True)
        shift = len(read) - 1
        heads = [self.prefixes[bucket] for bucket in read.tolist()]
        places = list(range(len(read))) + bucket_of.tolist()
        names = [b"progress"] * len(read) + keys
        return KeyPlan(
            [heads[place] + name for place, name in zip(places, names, strict=True)],
            [(view, [None if at is None else at + shift for at in found]) for view, found in spans],
            tuple(read.tolist()),
            np.array(places),
        )

    def is_empty(self, plan: KeyPlan, values: Sequence[bytes | None]) -> bool:
        """Whether no bucket that was read knows any position: what was fetched for the plan."""
        return not any(values[: len(plan.read)])

    def check_signs(self, values: Sequence[bytes | None]) -> None:
        """See whether an empty store is one of another number of buckets.

        Args:
            values: of ``signs``.

        Raises:
            BucketCountError: it is.
        """
        alone, last = values
        count = int(last) if last else 1 if alone else self.buckets
        if count != self.buckets:
            raise BucketCountError(
                f"redis: this layout is kept in {count} bucket{'s' * (count > 1)}, and this reader "
                f"looks for {self.buckets}: give it the workers' redis.buckets"
            )

    def _add(
        self, view: View, given: Mapping[str, Any], n: int, keys: list[bytes], prefix: bytes
    ) -> Places:
        """Add a view's keys; their places, None for an entity of which an id is not given."""
        entity, first = view.entity, len(keys)
        if not entity.per_item:
            keys.append(prefix + entity_key(view, [given[field] for field in entity.key]))
            return [first]
        parts: list[Any] = [given.get(field) for field in entity.key]
        if any(part is None for part in parts):
            return [None] * n
        absent: set[int] = set()
        for part in parts:
            if not isinstance(part, str) and part is not given["item_id"]:
                absent.update(at for at, value in enumerate(part) if value is None)
        if not absent:
            keys += [prefix + key for key in _entity_keys(view, parts, n)]
            return list(range(first, first + n))
        there = [at for at in range(n) if at not in absent]
        parts = [part if isinstance(part, str) else [part[at] for at in there] for part in parts]
        keys += [prefix + key for key in _entity_keys(view, parts, len(there))]
        places: Places = [None] * n
        for place, at in enumerate(there, first):
            places[at] = place
        return places

    def decode(
        self,
        request: Request,
        items: Sequence[str],
        context: dict[str, Any],
        as_of_ms: int,
        plan: KeyPlan,
        values: Sequence[bytes | None],
    ) -> Matrix:
        """The matrix of what was fetched for a plan.

        Raises:
            AsOfTooOldError: the moment lies behind what the rings still hold.
        """
        n, several = len(items), len(plan.read) > 1
        sizes = len(self.layout.topics), self.partitions
        entries = unpack_all(values[0], *sizes)
        others = np.zeros((0, *sizes), entries.dtype)
        everywhere = entries
        if several:
            blobs = values[1 : len(plan.read)]
            others = np.stack([unpack_all(blob, *sizes) for blob in blobs])
            everywhere = np.concatenate([entries, *others], axis=1)
        sums = {
            view.entity: ViewSums(
                view, [None if at is None else values[at] for at in places], as_of_ms
            )
            for view, places in plan.spans
        }
        read = _Moment(request.ts_ms, sums, context, self.features.contexts, self._selections)
        formed = np.empty((n, len(self.features.features)))
        for columns, formula in self._formulas:
            formed[:, columns] = formula(read)
        formed = formed.take(self._order, axis=1)
        for counter, with_it in self._missing:
            known = read.known(counter)
            if not known.all():
                formed = np.where(with_it & ~known[:, None], np.nan, formed)
        # What no bucket of all that were read says, none says alone.
        streams = self._streams(everywhere, as_of_ms)
        state_of = cache(lambda asked: _state_of(streams, as_of_ms, *asked))
        rows = _Rows(
            plan, as_of_ms, lambda at: self._streams(others[at - 1] if at else entries, as_of_ms)
        )
        states = np.isnan(formed) * _MISSING
        for index, (feature, asked, unseen) in enumerate(self._formed):
            # Of several states the highest holds.
            state: Any = state_of(asked)
            if state:
                # Some bucket is behind: which items have a key there?
                found = rows.states(_entities(feature), asked) if several else state
                states[:, index] = np.maximum(states[:, index], found)
            if unseen is None:
                continue
            counter, asked = unseen
            unseen_state: Any = state_of(asked)
            if unseen_state and (several or unseen_state > state):
                if several:
                    unseen_state = rows.states(_entities(feature), asked)
                found = ~read.known(counter) * unseen_state
                states[:, index] = np.maximum(states[:, index], found)
        matrix = canonical(formed)
        stamp = Stamp(self.layout.topics, entries, self.buckets, plan.read, others)
        return Matrix(
            items,
            self.features.columns,
            matrix,
            states,
            as_of_ms,
            stamp,
            self.layout.digest,
            context,
            request.user_id,
            request.query,
        )

    def _seeing(self, view: View) -> tuple[tuple[int, ...], int]:
        ring = view.rings[view.longest]
        events = {cell.measure.event.name for cell in ring.cells}
        return tuple(self._topic_index[event] for event in sorted(events)), ring.window.length_ms

    def _streams(self, entries: NDArray[Any], as_of_ms: int) -> Streams:
        """Per topic: how far its slowest partition lies behind, and whether it is being rebuilt.

        The second is (not all there yet, what is missing was before that time).
        """
        lag = (as_of_ms - entries["arrival"]).max(axis=1).tolist()
        absent = entries["incarnation"] == b""
        behind = (absent | (entries["next"] < entries["rebuild_until"])).any(axis=1).tolist()
        # A record before the origin arrived no later, and may say that it is of the future.
        joined = np.where(entries["origin"] > 0, entries["origin_arrival"], 0).max(axis=1).tolist()
        future_ms = self.layout.rules.future_ms
        missing_before = [at + future_ms if at else 0 for at in joined]
        return lag, list(zip(behind, missing_before, strict=True))


Streams = tuple[list[int], list[tuple[bool, int]]]


def _state_of(
    streams: Streams, as_of_ms: int, fed: Iterable[int], fresh_within_ms: int, window_ms: int
) -> np.uint8:
    lag_ms, rebuilding = streams
    found = _FRESH
    for topic in fed:
        behind, joined_ms = rebuilding[topic]
        # What is missing was before the origin, and its time at most that much later.
        if behind or joined_ms > as_of_ms - window_ms:
            return _REBUILDING
        if lag_ms[topic] > fresh_within_ms:
            found = _STALE
    return found


class _Rows:
    """States where buckets differ: a value has the worst of the buckets that it is formed from.

    Args:
        streams: of the bucket at a place among those read.
    """

    def __init__(self, plan: KeyPlan, as_of_ms: int, streams: Callable[[int], Streams]) -> None:
        self._plan = plan
        self._as_of_ms = as_of_ms
        self._streams_of = streams
        self._streams: list[Streams] = []
        self._buckets: dict[Entity, Ints] = {}

    def states(
        self, entities: Iterable[Entity], asked: tuple[Sequence[int], int, int]
    ) -> NDArray[np.uint8]:
        """Of each item, or of all at once; the last arguments of ``_state_of``."""
        if not self._streams:
            self._streams = [self._streams_of(at) for at in range(len(self._plan.read))]
        by_bucket = np.array(
            [_state_of(streams, self._as_of_ms, *asked) for streams in self._streams], np.uint8
        )
        found: NDArray[np.uint8] = np.zeros(1, np.uint8)
        for entity in entities:
            found = np.maximum(found, by_bucket[self._buckets_of(entity)])
        return found

    def _buckets_of(self, entity: Entity) -> Ints:
        """Places of the buckets of an entity's keys; the first for one that is not given."""
        if entity not in self._buckets:
            assert self._plan.bucket_of is not None, "one bucket has one state"
            places = next(places for view, places in self._plan.spans if view.entity == entity)
            # The first key is the first bucket's progress.
            self._buckets[entity] = self._plan.bucket_of[[at or 0 for at in places]]
        return self._buckets[entity]


def _side_by_side(
    formulas: Sequence[tuple[list[int], Formula]],
) -> tuple[list[tuple[slice, Formula]], list[int]]:
    """Each formula with columns next to those of the one before, and whose columns these are."""
    placed: list[tuple[slice, Formula]] = []
    order: list[int] = []
    for indices, formula in formulas:
        placed.append((slice(len(order), len(order) + len(indices)), formula))
        order += indices
    return placed, order


def _by_missing_entity(features: Sequence[Feature]) -> list[tuple[Counter, NDArray[np.bool_]]]:
    """The features that are missing with an entity, ``(features,)``, and a counter of it."""
    found: dict[Entity, tuple[Counter, NDArray[np.bool_]]] = {}
    for index, feature in enumerate(features):
        if (counter := feature.missing_with) is not None:
            nothing = np.zeros(len(features), np.bool_)
            found.setdefault(counter.entity, (counter, nothing))[1][index] = True
    return list(found.values())


def _entities(feature: Feature) -> set[Entity]:
    """Those that decide a feature's values, and whether they are there."""
    found = {counter.entity for counter, _ in feature.needs}
    return found | {feature.missing_with.entity} if feature.missing_with else found


class _Moment:
    """The read that features are formed from: sums of every view, at one moment."""

    def __init__(
        self,
        request_ts_ms: int,
        sums: Mapping[Entity, ViewSums],
        context: Mapping[str, Any],
        declared: Mapping[str, Context],
        selections: dict[Wanted, Selection],
    ) -> None:
        self.request_ts_ms = request_ts_ms
        self._sums = sums
        self._context = context
        self._declared = declared
        self._selections = selections

    def totals(self, wanted: Wanted) -> Ints:
        sums = self._sums[wanted.entity]
        selection = self._selections.get(wanted)
        if selection is None:
            needs = ((counter.measure, window) for counter, window in wanted.needs)
            selection = Selection.of(sums.view, needs, by_position=wanted.by_position)
            self._selections[wanted] = selection
        return sums.totals(selection)

    def total(self, counter: Counter, window: Window) -> Ints:
        return self._sums[counter.entity].total(counter.measure, window)

    def by_position(self, counter: Counter, window: Window) -> list[Ints]:
        return self._sums[counter.entity].by_position(counter.measure, window)

    def first_seen_ms(self, counter: Counter, window: Window) -> Ints:
        return self._sums[counter.entity].first_seen_ms(counter.measure, window)

    def known(self, counter: Counter) -> NDArray[np.bool_]:
        return self._sums[counter.entity].seen

    def context(self, name: str) -> Floats | None:
        value = self._context.get(name)
        if value is None:
            return None
        if self._declared[name].per == "request":
            value = [value]
        return np.array([np.nan if v is None else v for v in value], np.float64)


def _entity_keys(view: View, parts: Sequence[str | Sequence[str]], n: int) -> list[bytes]:
    """Keys of ``n`` entities whose id's parts are given once for all, or one for each."""
    *heads, last = parts
    if all(isinstance(head, str) for head in heads) and not isinstance(last, str):
        # What a read has by the hundred: only the last part differs.
        common = entity_key(view, [*(str(head) for head in heads), ""])
        return [common + part.encode() for part in last]
    columns = [[part] * n if isinstance(part, str) else part for part in parts]
    return [entity_key(view, row) for row in zip(*columns, strict=True)]
