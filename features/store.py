"""The state in Redis, as its one writer sees it: apply a batch exactly once, start, sweep.

Every method is one short atomic script, awaited before the next, so that readers are never kept
waiting long. Decides nothing by a clock.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import redis
from numpy.typing import NDArray

from tenuto.features.aggregate import Delta, chunk_of
from tenuto.features.layout import Layout
from tenuto.features.progress import ENTRY_BYTES, NO_ARRIVAL, Entry, unpack_all
from tenuto.features.scripts import REPLACE, apply_script, sweep_script

ENTITIES_PER_CHUNK = 100
# Limits of one script: KEYS plus ARGV, and bytes, so that none runs long.
_MAX_ENTITIES, _MAX_BYTES = 1_500, 1 << 20


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
class Slot:
    """One partition of one topic, as progress knows it."""

    topic: str
    partition: int
    at: int


def key_prefix(layout: Layout, namespace: str) -> str:
    """Prefix of every key of a layout; its hash tag keeps all of them in one cluster slot."""
    name = f"{namespace}." if namespace else ""
    return f"{{tenuto.{name}{layout.digest}}}:"


class Store:
    """Writer's access to the state of one layout in one Redis.

    Args:
        client: a connected client with ``decode_responses=False``.
        layout: what is stored.
        partitions: partition count of every input topic.
        namespace: keeps several platforms apart in one Redis.
    """

    def __init__(
        self, client: redis.Redis, layout: Layout, partitions: int, namespace: str = ""
    ) -> None:
        self.client = client
        self.layout = layout
        self.partitions = partitions
        self.prefix = key_prefix(layout, namespace).encode()
        self.progress_key = self.prefix + b"progress"
        self._apply = client.register_script(apply_script(layout))
        self._replace = client.register_script(REPLACE)
        self._sweep = client.register_script(sweep_script(layout))
        self._cursor = 0

    def slot(self, topic: str, partition: int) -> Slot:
        index = self.layout.topics.index(topic) * self.partitions + partition
        return Slot(topic, partition, index * ENTRY_BYTES)

    def check(self) -> None:
        """Refuse a Redis that may evict keys: counts would vanish while positions stay.

        Raises:
            StoreError: its policy is not ``noeviction``, or keys were evicted already.
        """
        policy = self.client.info("memory").get("maxmemory_policy")
        if policy not in (None, "noeviction"):
            raise StoreError(f"redis: maxmemory-policy is {policy}: must be noeviction")
        evicted = self.client.info("stats").get("evicted_keys", 0)
        if evicted:
            raise StoreError(
                f"redis: evicted_keys is {evicted}: counts are gone while positions stayed; "
                "FLUSHDB, and the workers rebuild from the log"
            )

    def entry(self, slot: Slot) -> Entry | None:
        """Where a partition stands; None when the store does not know it."""
        at, end = slot.at, slot.at + ENTRY_BYTES - 1
        return Entry.unpack(cast(bytes, self.client.getrange(self.progress_key, at, end)))

    def entries(self, slots: Sequence[Slot]) -> list[Entry | None]:
        """Where several partitions stand, in one round trip."""
        blob = cast("bytes | None", self.client.get(self.progress_key)) or b""
        return [Entry.unpack(blob[slot.at : slot.at + ENTRY_BYTES]) for slot in slots]

    def next_offsets(self) -> NDArray[np.int64]:
        """How far every partition is read, topic by topic; -1 where the store does not know it."""
        blob = cast("bytes | None", self.client.get(self.progress_key))
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
        """Enter a partition that the store does not know; another worker's entry wins."""
        new = Entry(incarnation, origin, origin_arrival, origin, arrival, rebuild_until)
        return self.replace(slot, None, new)

    def replace(self, slot: Slot, expected: Entry | None, new: Entry) -> Entry:
        """Put an entry in the place of the expected one; returns what stands there after."""
        before = b"" if expected is None else expected.pack()
        size = len(self.layout.topics) * self.partitions * ENTRY_BYTES
        arguments: list[Any] = [slot.at, before, new.pack(), size]
        _, entry = self._replace(keys=[self.progress_key], args=arguments)
        return cast(Entry, Entry.unpack(entry))

    def apply(
        self, slot: Slot, entry: Entry, end: int, arrival: int, deltas: Sequence[Delta]
    ) -> Entry:
        """Apply the batch ``[entry.next, end)`` from where the entry stands, chunk by chunk.

        Args:
            slot: the batch's partition.
            entry: progress as last seen; with a batch in progress, ``end`` must be its end.
            end: the position after the batch.
            arrival: maximum record timestamp up to ``end``.
            deltas: what the batch's accepted records add, one per entity.

        Returns:
            The entry after the last chunk.

        Raises:
            Elsewhere: another worker, or a loss of Redis, has moved progress.
        """
        chunks = entry.chunks if entry.batch_end else self._chunks(deltas)
        seen: Entry | None = entry
        parts: dict[int, list[Delta]] = defaultdict(list)
        for delta in deltas:
            parts[chunk_of(delta.key, chunks)].append(delta)
        for chunk in range(entry.done, chunks):
            part = parts.get(chunk, [])
            keys = [self.progress_key, *(self.prefix + delta.key for delta in part)]
            head: list[Any] = [slot.at, entry.incarnation, entry.next, end, chunks, chunk, arrival]
            applied, raw = self._apply(keys=keys, args=[*head, b"".join([d.packed for d in part])])
            seen = Entry.unpack(raw)
            if not applied or seen is None:
                raise Elsewhere(seen)
        return cast(Entry, seen)

    def _chunks(self, deltas: Sequence[Delta]) -> int:
        """How many chunks keep every script within its limits, by count and by bytes."""
        chunks = max(1, -(-len(deltas) // ENTITIES_PER_CHUNK))
        while True:
            entities, sizes = [0] * chunks, [0] * chunks
            for delta in deltas:
                chunk = chunk_of(delta.key, chunks)
                entities[chunk] += 1
                sizes[chunk] += len(delta.packed)
            if max(entities) <= _MAX_ENTITIES and max(sizes) <= _MAX_BYTES:
                return chunks
            if chunks > 4 * max(1, len(deltas)):
                # One entity alone is over the limit: no cut can mend that.
                return chunks
            chunks *= 2

    def sweep(self, slowest_arrival_ms: int, count: int = 500) -> int:
        """One small step over the keys: delete entities that no reader can see any more.

        Args:
            slowest_arrival_ms: least arrival over all partitions; nothing older counts any more.
            count: keys looked at, about.

        Returns:
            Keys deleted.
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
        self._cursor, keys = self.client.scan(self._cursor, self.prefix + b"*", count)
        keys = [key for key in keys if key != self.progress_key]
        return int(self._sweep(keys=keys, args=thresholds)) if keys else 0

    def clear(self) -> None:
        """Delete everything of this layout; positions first, so that readers see it at once."""
        self.client.delete(self.progress_key)
        for key in self.all_keys():
            self.client.delete(key)

    def all_keys(self) -> Iterator[bytes]:
        """Every key of this layout, for tests and for sizes."""
        return iter(self.client.scan_iter(self.prefix + b"*", 1000))
