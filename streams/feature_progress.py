"""Where the feature worker stands: Redis's own positions, entered, resumed, lost and found again.

Kafka's committed offsets are a hint that is never asked. What a batch does to the state is in
``feature_worker.py``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial

from tenuto.features.buckets import Buckets, Moved
from tenuto.features.progress import NO_ARRIVAL, UNKNOWN_ARRIVAL, Entry
from tenuto.features.store import Slot, StoreError
from tenuto.streams.batches import TP
from tenuto.streams.broker_log import BrokerLog, Extent
from tenuto.streams.full_store import FullStore

logger = logging.getLogger(__name__)


class FeatureProgress:
    """The entries of the partitions that this worker holds.

    Args:
        store: the state.
        log: the broker's side.
        topics: topic name on the broker by event name.
        full: waits while the store takes no writes.
        reset: begin anew where the store belongs to another life of a topic, instead of refusing.

    Attributes:
        entries: of each partition, where every bucket stands.
    """

    def __init__(
        self,
        store: Buckets,
        log: BrokerLog,
        topics: Mapping[str, str],
        full: FullStore,
        *,
        reset: bool = False,
    ) -> None:
        self.store = store
        self.log = log
        self.entries: dict[TP, tuple[Entry, ...]] = {}
        self._event_of = {topic: event for event, topic in topics.items()}
        self._full = full
        self._reset = reset

    def slot(self, tp: TP) -> Slot:
        return self.store.slot(self._event_of[tp.topic], tp.partition)

    async def enter(self, partitions: Collection[TP]) -> dict[TP, int]:
        """Where to read each partition from, entering those that the store does not know.

        Where the log begins later than that, reading finds out, and ``move_origin`` says it.

        Raises:
            StoreError: the store has read another life of a topic, or further than it reaches.
        """
        topics = sorted({tp.topic for tp in partitions})
        asked = await asyncio.gather(*map(self.log.incarnation, topics))
        lives = dict(zip(topics, asked, strict=True))
        extents = await self.log.extents(partitions)
        known = await self._entries(partitions)
        for tp in partitions:
            known[tp] = [
                entry and await self._checked(tp, bucket, entry, lives[tp.topic], extents[tp])
                for bucket, entry in enumerate(known[tp])
            ]
        absent = {tp: extents[tp] for tp in partitions if None in known[tp]}
        if absent:
            await self._begin(absent, lives, known)
        for tp in partitions:
            self.entries[tp] = tuple(entry for entry in known[tp] if entry is not None)
        return {tp: self.position(tp) for tp in partitions}

    def position(self, tp: TP) -> int:
        """Where to read a partition: what lies before has reached every bucket."""
        return min(entry.next for entry in self.entries[tp])

    def leave(self, partitions: Collection[TP]) -> None:
        """Forget partitions that another worker has now."""
        for tp in partitions:
            self.entries.pop(tp, None)

    async def lost(self) -> dict[TP, int]:
        """Partitions whose entry in the store is lower than known, or gone: where to go back to.

        An idle partition must notice a loss of Redis too, so this is asked every second.

        Raises:
            StoreError: as ``enter``.
        """
        if not self.entries:
            return {}
        seen = await self._entries(list(self.entries))
        moved = []
        for tp, known in self.entries.items():
            if any(
                _is_lost(tp, self._where(bucket), before, found)
                for bucket, (before, found) in enumerate(zip(known, seen[tp], strict=True))
            ):
                moved.append(tp)
        return await self.enter(moved) if moved else {}

    async def move_origin(self, tp: TP, bucket: int, origin: int, arrival: int) -> None:
        """Declare that records before ``origin`` were deleted before a bucket had read them.

        Values say ``rebuilding`` until nothing that is missing lies in their windows. What a batch
        in progress has added up to beyond ``origin`` is there: the batch is finished without what
        is missing, or it would be added twice.

        Args:
            origin: the first record that was left.
            arrival: of that record, or ``UNKNOWN_ARRIVAL`` where there is none yet.

        Raises:
            Moved: the bucket has lost the entry meanwhile.
        """
        entries: list[Entry | None] = list(self.entries[tp])
        entry = self.entries[tp][bucket]
        moved = replace(entry, origin=origin, origin_arrival=max(arrival, entry.arrival))
        if origin >= entry.batch_end:
            moved = replace(moved, next=max(origin, entry.next), batch_end=0, chunks=0, done=0)
        write = partial(self.store.stores[bucket].replace, self.slot(tp), entry, moved)
        found = entries[bucket] = await self._full.through(write)
        if found is None:
            raise Moved(entries)
        before = self.entries[tp]
        self.entries[tp] = (*before[:bucket], found, *before[bucket + 1 :])

    async def _entries(self, partitions: Collection[TP]) -> dict[TP, list[Entry | None]]:
        tps = list(partitions)
        slots = [self.slot(tp) for tp in tps]
        entries = await asyncio.to_thread(self.store.entries, slots)
        return dict(zip(tps, entries, strict=True))

    async def _begin(
        self,
        extents: Mapping[TP, Extent],
        lives: Mapping[str, bytes],
        known: Mapping[TP, list[Entry | None]],
    ) -> None:
        """Enter partitions at the first record that a window can still need, where not known."""
        newest = {tp: e.last.timestamp if e.last else 0 for tp, e in extents.items()}
        history_ms = self.store.layout.history_ms
        first = await self.log.first_since({tp: ms - history_ms for tp, ms in newest.items()})
        for tp, extent in extents.items():
            # Where the broker does not say, or has deleted the record since: all that is left.
            origin, arrival = first.get(tp, (0, 0))
            if not (extent.begin <= origin < extent.end and arrival):
                origin, arrival = extent.begin, UNKNOWN_ARRIVAL
            if origin == 0:
                # Where nothing is left out, nothing is missing from a window.
                arrival = NO_ARRIVAL
            elif origin == extent.begin and arrival > newest[tp] - history_ms:
                logger.warning(
                    "%s[%d] begins at %d, within the longest window: its values say rebuilding "
                    "until that window has passed; keep more of the topic (retention.ms)",
                    *tp, origin,
                )  # fmt: skip
            for bucket, entry in enumerate(known[tp]):
                if entry is None:
                    write = partial(
                        self.store.begin, bucket, self.slot(tp), lives[tp.topic], origin, arrival,
                        rebuild_until=extent.end,
                    )  # fmt: skip
                    known[tp][bucket] = await self._full.through(write)

    async def _checked(
        self, tp: TP, bucket: int, entry: Entry, life: bytes, extent: Extent
    ) -> Entry | None:
        """The entry, or None where it was deleted because it is of another log."""
        store = self.store.stores[bucket]
        where = f"redis {store.prefix.decode()} has read {tp.topic}[{tp.partition}]"
        if entry.incarnation != life:
            other = "of another life of the topic"
        elif entry.next > extent.end:
            # Another worker may have gone on since the end was asked for.
            extent = (await self.log.extents([tp]))[tp]
            if entry.next <= extent.end:
                return entry
            other = f"up to {entry.next}, and the log ends at {extent.end}"
        else:
            return entry
        if not self._reset:
            raise StoreError(f"{where} {other}: restart with --reset to rebuild from this log")
        logger.warning("%s %s: rebuilding", where, other)
        await asyncio.to_thread(store.clear)
        return None

    def _where(self, bucket: int) -> str:
        """A bucket, as messages call it."""
        return f"redis (bucket {bucket})" if len(self.store) > 1 else "redis"


def _is_lost(tp: TP, where: str, known: Entry, found: Entry | None) -> bool:
    if found is None:
        logger.warning("%s has lost its position in %s[%d]: rebuilding", where, *tp)
    elif found.incarnation != known.incarnation or found.next < known.next:
        logger.warning("%s is older for %s[%d]: back to %d", where, *tp, found.next)
    else:
        return False
    return True
