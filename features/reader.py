"""From a request to the keys it needs, and from their bytes to a matrix: no socket, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tenuto.features.aggregate import entity_key
from tenuto.features.bucket_keys import buckets_key, buckets_of, cluster_slot, key_prefix
from tenuto.features.entities import Entity
from tenuto.features.forming import ColumnFormer
from tenuto.features.layout import View
from tenuto.features.matrix import Matrix, Stamp, canonical
from tenuto.features.progress import BucketCountError, unpack_all
from tenuto.features.schema import FeatureSet
from tenuto.features.states import StateRules
from tenuto.features.sums import Ints, ViewSums


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

    def bucket_places(self, entity: Entity) -> Ints:
        """Of an entity's keys, the place of each one's bucket; the first's for one not given.

        Only where there are several buckets.
        """
        assert self.bucket_of is not None, "one bucket has one place"
        places = next(places for view, places in self.spans if view.entity == entity)
        # The first key is the first bucket's progress.
        found: Ints = self.bucket_of[[at or 0 for at in places]]
        return found

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
        self._former = ColumnFormer(features)
        self._states = StateRules(features)

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
        sizes = len(self.layout.topics), self.partitions
        entries, *rest = (unpack_all(blob, *sizes) for blob in values[: len(plan.read)])
        others = np.stack(rest) if rest else np.zeros((0, *sizes), entries.dtype)
        sums = {
            view.entity: ViewSums(
                view, [None if at is None else values[at] for at in places], as_of_ms
            )
            for view, places in plan.spans
        }
        read = self._former.moment(request.ts_ms, sums, context)
        formed = self._former.columns(read, len(items))
        states = self._states.of(
            formed, read.known, [entries, *others], as_of_ms, plan.bucket_places
        )
        stamp = Stamp(self.layout.topics, entries, self.buckets, plan.read, others)
        return Matrix(
            items,
            self.features.columns,
            canonical(formed),
            states,
            as_of_ms,
            stamp,
            self.layout.digest,
            context,
            request.user_id,
            request.query,
        )


def _entity_keys(view: View, parts: Sequence[str | Sequence[str]], n: int) -> list[bytes]:
    """Keys of ``n`` entities whose id's parts are given once for all, or one for each."""
    *heads, last = parts
    if all(isinstance(head, str) for head in heads) and not isinstance(last, str):
        # What a read has by the hundred: only the last part differs.
        common = entity_key(view, [*(str(head) for head in heads), ""])
        return [common + part.encode() for part in last]
    columns = [[part] * n if isinstance(part, str) else part for part in parts]
    return [entity_key(view, row) for row in zip(*columns, strict=True)]
