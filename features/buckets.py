"""The whole state as its writer sees it: one store, or several buckets with positions of their own.

An entity lives in one bucket. A batch is applied to every bucket that stands where it begins; each
is a function of its own prefix of the log, and a lost one is built anew alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tenuto.features.aggregate import Deltas
from tenuto.features.bucket_keys import buckets_key, buckets_of, cluster_slot, key_prefix
from tenuto.features.cluster import Cluster
from tenuto.features.connection import RedisConnection
from tenuto.features.layout import Layout
from tenuto.features.progress import NO_ARRIVAL, Entry
from tenuto.features.store import Elsewhere, Health, PreparedBatch, Slot, Store, StoreError
from tenuto.features.topology import Address

T = TypeVar("T")


class Moved(Exception):  # noqa: N818 - not an error: the caller goes where progress stands
    """Progress of a bucket does not stand where the batch begins.

    Attributes:
        entries: where each bucket stands; ``None`` for one that has lost it.
    """

    def __init__(self, entries: Sequence[Entry | None]) -> None:
        super().__init__(f"progress stands at {entries}")
        self.entries = tuple(entries)


@dataclass(frozen=True, slots=True)
class Part:
    """What is applied next: up to which position, and to which buckets."""

    end: int
    buckets: tuple[int, ...]


def next_part(entries: Sequence[Entry], end: int) -> Part:
    """What of ``[least position, end)`` the buckets that stand there can be given together.

    A batch in progress is finished with its own end, which may lie beyond ``end``; a new one ends
    where the next bucket stands, so that from there on they go together.
    """
    least = min(entry.next for entry in entries)
    there = [at for at, entry in enumerate(entries) if entry.next == least]
    begun = [entries[at].batch_end for at in there if entries[at].batch_end]
    if begun:
        end = min(begun)
        there = [at for at in there if entries[at].batch_end in (0, end)]
    else:
        end = min([end, *(entry.next for entry in entries if entry.next > least)])
    # Records are judged by the arrival before them, of which a bucket that began later knows less.
    arrival = entries[there[0]].arrival
    return Part(end, tuple(at for at in there if entries[at].arrival == arrival))


@dataclass(slots=True)
class PreparedBuckets:
    """A batch as the calls that apply it to its buckets.

    Attributes:
        entries: progress of every bucket before it; ``run`` keeps it up to date.
        parts: the buckets that take part, each with its calls.
    """

    slot: Slot
    entries: list[Entry | None]
    parts: list[tuple[int, PreparedBatch]]
    after: tuple[Entry, ...]

    @property
    def n_calls(self) -> int:
        """How many are still to be made."""
        return sum(len(part.calls) for _, part in self.parts)

    @property
    def entities(self) -> int:
        return sum(part.entities for _, part in self.parts)


class Buckets:
    """Writer's access to all of the state of one layout.

    Args:
        stores: of every bucket, in order.
        namespace: as they have it.
        cluster: whose nodes they are on; one Redis without.
    """

    def __init__(
        self, stores: Sequence[Store], namespace: str = "", cluster: Cluster | None = None
    ) -> None:
        self.stores = tuple(stores)
        self.layout = stores[0].layout
        self.partitions = stores[0].partitions
        self._cluster = cluster
        self._slots = [cluster_slot(store.prefix.decode()) for store in stores]
        self._sign = buckets_key(self.layout, namespace)
        self._signs = stores[0].client
        if cluster is not None:
            self._signs = cluster.client(cluster_slot(self._sign))

    @classmethod
    def connect(
        cls, connection: RedisConnection, layout: Layout, partitions: int, namespace: str = ""
    ) -> Buckets:
        """The buckets that settings say; further arguments as ``Store`` has them."""
        n = connection.buckets
        cluster = connection.nodes() if connection.cluster else None
        shared = connection.client()
        stores = []
        for bucket in range(n):
            slot = cluster_slot(key_prefix(layout, namespace, bucket, n))
            client = shared if cluster is None else cluster.client(slot)
            stores.append(Store(client, layout, partitions, namespace, bucket, n))
        return cls(stores, namespace, cluster)

    def __len__(self) -> int:
        return len(self.stores)

    def slot(self, topic: str, partition: int) -> Slot:
        return self.stores[0].slot(topic, partition)

    def store_of(self, key: bytes) -> Store:
        """The bucket of an entity, by its key without prefix."""
        return self.stores[int(buckets_of([key], len(self.stores))[0])]

    def check(self) -> Health:
        """As ``Store.check``, of every Redis; the health of the fullest one."""
        if self._cluster is None:
            return self.stores[0].check()
        found = []
        for lane in self._by_redis(list(enumerate(self.stores))):
            bucket, store = lane[0]
            try:
                found.append(store.check())
            except StoreError as error:
                host, port = self._cluster.node(self._slots[bucket])
                raise StoreError(f"{host}:{port}: {error}") from error
        return max(found, key=_fullness)

    def entries(self, slots: Sequence[Slot]) -> list[list[Entry | None]]:
        """Where several partitions stand: bucket by bucket, for each of them.

        Raises:
            StoreError: progress is not as long as it must be.
        """
        by_store = [store.unpacked(blob, slots) for store, blob in self._progress()]
        return [list(entries) for entries in zip(*by_store, strict=True)]

    def next_offsets(self) -> NDArray[np.int64]:
        """How far every partition is read into every bucket; -1 where one does not know it."""
        offsets = np.array([store.unpacked_offsets(blob) for store, blob in self._progress()])
        least: NDArray[np.int64] = offsets.min(axis=0)
        return least

    def begin(
        self,
        bucket: int,
        slot: Slot,
        incarnation: bytes,
        origin: int,
        origin_arrival: int = NO_ARRIVAL,
        rebuild_until: int = 0,
    ) -> Entry:
        """As ``Store.begin``; says too in how many buckets the state is, where in several."""
        if len(self.stores) > 1:
            self._signs.set(self._sign, len(self.stores))
        return self.stores[bucket].begin(slot, incarnation, origin, origin_arrival, rebuild_until)

    def prepare(
        self, slot: Slot, entries: Sequence[Entry], part: Part, arrival: int, deltas: Deltas
    ) -> PreparedBuckets:
        """Cut a batch into the calls that ``run`` makes; arguments as ``Store.prepare`` has them.

        Args:
            entries: progress of every bucket, as it will be seen.
            part: the end of the batch, and the buckets that it is for.
        """
        after = list(entries)
        parts = []
        split = split_by_bucket(deltas, len(self.stores))
        for at in part.buckets:
            made = self.stores[at].prepare(slot, entries[at], part.end, arrival, split[at])
            parts.append((at, made))
            after[at] = made.after
        return PreparedBuckets(slot, list(entries), parts, tuple(after))

    def run(self, prepared: PreparedBuckets) -> tuple[Entry, ...]:
        """Apply a batch from where progress stands, chunk by chunk.

        Returns:
            The entries after the last chunk, which are ``prepared.after``.

        Raises:
            Moved: another worker, or a loss of Redis, has moved progress of some bucket; the batch
                is applied to the others.
            redis.ResponseError: Redis is out of memory, say; another ``run`` goes on there.
        """
        lanes = self._by_redis(prepared.parts)
        if len(lanes) == 1:
            moved = [self._run_part(prepared, *part) for part in lanes[0]]
        else:
            moved = self._run_side_by_side(prepared, lanes)
        if any(moved):
            raise Moved(prepared.entries)
        return prepared.after

    def _run_part(self, prepared: PreparedBuckets, bucket: int, part: PreparedBatch) -> bool:
        """Apply it to one bucket; whether progress has moved there."""
        try:
            prepared.entries[bucket] = self.stores[bucket].run(part)
        except Elsewhere as elsewhere:
            prepared.entries[bucket] = elsewhere.entry
            return True
        return False

    def _run_side_by_side(
        self, prepared: PreparedBuckets, lanes: list[list[tuple[int, PreparedBatch]]]
    ) -> list[bool]:
        """A thread for each Redis: none waits for another one's scripts."""

        def run(lane: list[tuple[int, PreparedBatch]]) -> list[bool]:
            return [self._run_part(prepared, *part) for part in lane]

        with ThreadPoolExecutor(len(lanes), "tenuto-redis") as threads:
            done = [threads.submit(run, lane) for lane in lanes]
        # An error comes last: the others are not left in the middle of it.
        return [moved for one in done for moved in one.result()]

    def all_keys(self) -> Iterator[bytes]:
        """Every key of the state, progress and entities, for tests and for sizes."""
        for store in self.stores:
            yield from store.all_keys()

    def _progress(self) -> list[tuple[Store, bytes | None]]:
        """The progress of every bucket, as bytes."""
        if self._cluster is None:
            keys = [store.progress_key for store in self.stores]
            blobs: Any = self.stores[0].client.mget(keys)
        else:
            blobs = [store.client.get(store.progress_key) for store in self.stores]
        return list(zip(self.stores, blobs, strict=True))

    def _by_redis(self, of_buckets: Sequence[tuple[int, T]]) -> list[list[tuple[int, T]]]:
        """What belongs to buckets, by the Redis that they are on."""
        if self._cluster is None:
            return [list(of_buckets)]
        lanes: dict[Address, list[tuple[int, T]]] = {}
        for bucket, one in of_buckets:
            lanes.setdefault(self._cluster.node(self._slots[bucket]), []).append((bucket, one))
        return list(lanes.values())


def split_by_bucket(deltas: Deltas, buckets: int) -> list[Deltas]:
    """What a batch adds to each bucket."""
    if buckets == 1:
        return [deltas]
    bucket_of = buckets_of(deltas.keys, buckets)
    order = np.argsort(bucket_of, kind="stable").tolist()
    ends = np.bincount(bucket_of, minlength=buckets).cumsum().tolist()
    keys = list(map(deltas.keys.__getitem__, order))
    packed = list(map(deltas.packed.__getitem__, order))
    return [
        Deltas(keys[low:high], packed[low:high])
        for low, high in zip([0, *ends], ends, strict=False)
    ]


def _fullness(health: Health) -> tuple[float, int]:
    share = health.used_bytes / health.max_bytes if health.max_bytes else 0.0
    return share, health.used_bytes
