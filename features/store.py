"""One bucket of the state in Redis, as its one writer sees it: apply a batch once, start, sweep.

Every method is one short atomic script, or several with a few sent ahead, so that readers are never
kept waiting long. Decides nothing by a clock.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import redis
from numpy.typing import NDArray

from tenuto.features.aggregate import Deltas
from tenuto.features.bucket_keys import key_prefix
from tenuto.features.chunks import cut
from tenuto.features.founding import Founding
from tenuto.features.layout import Layout
from tenuto.features.packed_script import PackedScript, argument
from tenuto.features.progress import ENTRY_BYTES, NO_ARRIVAL, Entry, unpack_all
from tenuto.features.scripts import REPLACE, apply_script, sweep_script

# Of the script that applies: what stands before the deltas, and they.
_ARGUMENTS = 8


class StoreError(RuntimeError):
    """The store cannot be used as it is: what is wrong with it, and the mend."""


class Elsewhere(Exception):  # noqa: N818 - not an error: the caller goes where progress stands
    """Progress does not stand where the batch begins.

    Attributes:
        entry: where it stands; ``None`` when the store has lost it.
    """

    def __init__(self, entry: Entry | None) -> None:
        super().__init__(f"progress stands at {entry}")
        self.entry = entry


@dataclass(frozen=True, slots=True)
class Health:
    """What a Redis says of itself.

    Attributes:
        policy: its maxmemory-policy; empty where it does not say.
        evicted_keys: since its start or ``CONFIG RESETSTAT``.
        used_bytes, max_bytes: its memory; a maximum of 0 is none.
    """

    policy: str
    evicted_keys: int
    used_bytes: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Slot:
    """One partition of one topic, as progress knows it."""

    topic: str
    partition: int
    at: int


@dataclass(frozen=True, slots=True)
class Swept:
    """What one step over the keys has found.

    Attributes:
        cursor: where the next step begins; 0 when every key has been looked at.
        deleted: entities.
        views: by view: entities left, of how many of them the bytes were asked, and these bytes.
    """

    cursor: int
    deleted: int
    views: list[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """A batch as the calls that apply it, from where progress is expected.

    Attributes:
        entry: progress before it.
        entities: how many it touches.
        calls: of each chunk still to be applied, the number of keys, and keys and arguments;
            ``run`` takes each away once it is applied.
    """

    slot: Slot
    entry: Entry
    end: int
    arrival: int
    entities: int
    calls: list[tuple[int, bytes]]

    @property
    def after(self) -> Entry:
        """Progress once it is applied."""
        arrival = max(self.entry.arrival, self.arrival)
        return replace(self.entry, next=self.end, arrival=arrival, batch_end=0, chunks=0, done=0)


def _is_applied(reply: tuple[int, bytes]) -> None:
    applied, raw = reply
    if not applied:
        raise Elsewhere(Entry.unpack(raw))


class Store:
    """Writer's access to one bucket of the state of one layout, in one Redis.

    Args:
        client: a connected client with ``decode_responses=False``.
        layout: what is stored.
        partitions: partition count of every input topic.
        namespace: keeps several platforms apart in one Redis.
        bucket, buckets: which one of how many; all of the state by default.
    """

    def __init__(
        self,
        client: redis.Redis,
        layout: Layout,
        partitions: int,
        namespace: str = "",
        bucket: int = 0,
        buckets: int = 1,
    ) -> None:
        self.client = client
        self.layout = layout
        self.partitions = partitions
        self.prefix = key_prefix(layout, namespace, bucket, buckets).encode()
        self.progress_key = self.prefix + b"progress"
        self._apply = PackedScript(client, apply_script(layout))
        self._size = len(layout.topics) * partitions * ENTRY_BYTES
        self._replace = client.register_script(REPLACE)
        self._founding = Founding(client, self.prefix, self.progress_key, self._size)
        self._sweep = client.register_script(sweep_script(layout))

    def slot(self, topic: str, partition: int) -> Slot:
        index = self.layout.topics.index(topic) * self.partitions + partition
        return Slot(topic, partition, index * ENTRY_BYTES)

    def check(self) -> Health:
        """Refuse a Redis that may evict keys: counts would vanish while positions stay.

        A Redis that forbids INFO to this user cannot be checked: its ``policy`` is empty.

        Raises:
            StoreError: its policy is not ``noeviction``, or keys were evicted already.
        """
        health = self.health()
        if health.policy not in ("", "noeviction"):
            raise StoreError(
                f"redis: maxmemory-policy is {health.policy}: must be noeviction "
                "(CONFIG SET maxmemory-policy noeviction)"
            )
        if health.evicted_keys:
            raise StoreError(
                f"redis: evicted_keys is {health.evicted_keys}: counts are gone while positions "
                "stayed; FLUSHDB and CONFIG RESETSTAT (or start it empty), and the workers rebuild "
                "from the log"
            )
        return health

    def health(self) -> Health:
        """What Redis says of its memory; needs INFO, and no CONFIG."""
        try:
            memory = self.client.info("memory")
            stats = self.client.info("stats")
        except redis.exceptions.NoPermissionError:
            return Health("", 0, 0, 0)
        return Health(
            str(memory.get("maxmemory_policy", "")),
            int(stats.get("evicted_keys", 0)),
            int(memory.get("used_memory", 0)),
            int(memory.get("maxmemory", 0)),
        )

    def entry(self, slot: Slot) -> Entry | None:
        """Where a partition stands; None when the store does not know it."""
        return self.entries([slot])[0]

    def entries(self, slots: Sequence[Slot]) -> list[Entry | None]:
        """Where several partitions stand, in one round trip.

        Raises:
            StoreError: progress is not as long as it must be.
        """
        return self.unpacked(cast("bytes | None", self.client.get(self.progress_key)), slots)

    def unpacked(self, blob: bytes | None, slots: Sequence[Slot]) -> list[Entry | None]:
        """What the value of the progress key says of partitions; raises as ``entries``."""
        blob = blob or b""
        if blob and len(blob) != self._size:
            raise StoreError(
                f"redis: {self.progress_key.decode()} has {len(blob)} bytes: must be {self._size}: "
                "it is damaged, or of another number of partitions; --reset rebuilds from the log"
            )
        return [Entry.unpack(blob[slot.at : slot.at + ENTRY_BYTES]) for slot in slots]

    def next_offsets(self) -> NDArray[np.int64]:
        """How far every partition is read, topic by topic; -1 where the store does not know it."""
        return self.unpacked_offsets(cast("bytes | None", self.client.get(self.progress_key)))

    def unpacked_offsets(self, blob: bytes | None) -> NDArray[np.int64]:
        """What the value of the progress key says, as ``next_offsets``."""
        entries = unpack_all(blob, len(self.layout.topics), self.partitions).reshape(-1)
        return np.where(entries["incarnation"] == b"", -1, entries["next"])

    def begin(
        self,
        slot: Slot,
        incarnation: bytes,
        origin: int,
        origin_arrival: int = NO_ARRIVAL,
        rebuild_until: int = 0,
        arrival: int = NO_ARRIVAL,
    ) -> Entry:
        """Enter a partition that the store does not know; another worker's entry wins.

        Where the store knows no partition at all, what is left of an earlier one is deleted first.
        """
        new = Entry(incarnation, origin, origin_arrival, origin, arrival, rebuild_until)
        while (entry := self.replace(slot, None, new)) is None:
            self._founding.found()
        return entry

    def replace(self, slot: Slot, expected: Entry | None, new: Entry) -> Entry | None:
        """Put an entry in the place of the expected one; returns what stands there after.

        None where nothing does: the store has lost its progress.
        """
        before = b"" if expected is None else expected.pack()
        arguments: list[Any] = [slot.at, before, new.pack(), self._size]
        _, entry = self._replace(keys=[self.progress_key], args=arguments)
        return Entry.unpack(entry)

    def prepare(
        self, slot: Slot, entry: Entry, end: int, arrival: int, deltas: Deltas
    ) -> PreparedBatch:
        """Cut the batch ``[entry.next, end)`` into the calls that ``run`` makes; asks nobody.

        Args:
            slot: the batch's partition.
            entry: progress as it will be seen; with a batch in progress, ``end`` must be its end.
            end: the position after the batch.
            arrival: maximum record timestamp up to ``end``.
            deltas: what the batch's accepted records add.
        """
        chunks = cut(deltas, self.prefix, entry.chunks if entry.batch_end else 0)
        start = argument(b"%d" % slot.at) + argument(entry.incarnation)
        start += argument(b"%d" % entry.next) + argument(b"%d" % end)
        start += argument(b"%d" % len(chunks))
        progress, stop = argument(self.progress_key), argument(b"%d" % arrival)
        calls = []
        for at in range(entry.done, len(chunks)):
            chunk = chunks[at]
            arguments = start + argument(b"%d" % at) + stop + argument(chunk.packed)
            calls.append((1 + chunk.entities, progress + chunk.keys + arguments))
        return PreparedBatch(slot, entry, end, arrival, len(deltas), calls)

    def run(self, prepared: PreparedBatch) -> Entry:
        """Apply a batch from where progress stands, chunk by chunk.

        Where Redis refuses a chunk, nothing of it or of those after it is written, and another
        ``run`` goes on there.

        Returns:
            The entry after the last chunk, which is ``prepared.after``.

        Raises:
            Elsewhere: another worker, or a loss of Redis, has moved progress.
            redis.ResponseError: Redis is out of memory, say.
        """
        self._apply.run(prepared.calls, _ARGUMENTS, _is_applied)
        return prepared.after

    def apply(self, slot: Slot, entry: Entry, end: int, arrival: int, deltas: Deltas) -> Entry:
        """``prepare`` and ``run``."""
        return self.run(self.prepare(slot, entry, end, arrival, deltas))

    def sweep(self, slowest_arrival_ms: int, cursor: int = 0, count: int = 500) -> Swept:
        """One small step over the keys: delete entities that no reader can see any more.

        Args:
            slowest_arrival_ms: least arrival over all partitions; nothing older counts any more.
            cursor: where the step before ended; 0 to begin.
            count: keys looked at, about.
        """
        rules = self.layout.rules
        oldest = slowest_arrival_ms - rules.lateness_ms - rules.slack_ms - rules.future_ms
        thresholds = []
        for view in self.layout.views:
            heads = [
                max(0, (oldest - view.rings[view.longest].window.length_ms) // r.window.tile_ms)
                for r in view.rings
            ]
            thresholds.append(struct.pack(f">{len(heads)}I", *heads))
        # Every key but progress; no character of a prefix means anything in a pattern.
        pattern = self.prefix + b"[0-9]*"
        arguments: list[Any] = [cursor, pattern, count, *thresholds]
        answer = self._sweep(keys=[self.progress_key], args=arguments)
        views = [tuple(answer[at : at + 3]) for at in range(2, len(answer), 3)]
        return Swept(int(answer[0]), answer[1], views)

    def clear(self) -> None:
        """Forget all positions; whoever enters a partition next deletes the rest before.

        So a reset that is killed on its way leaves nothing half done, and readers see it at once.
        """
        self.client.delete(self.progress_key)

    def all_keys(self) -> Iterator[bytes]:
        """Every key of the state, progress and entities, for tests and for sizes."""
        if self.client.exists(self.progress_key):
            yield self.progress_key
        yield from self.client.scan_iter(self.prefix + b"[0-9]*", 1000)
