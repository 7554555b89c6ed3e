"""Where the feature worker stands: Redis's own positions, entered, resumed, lost and found again.

Kafka's committed offsets are a hint that is never asked. What a batch does to the state is in
``feature_worker.py``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

from tenuto.features.progress import NO_ARRIVAL, Entry
from tenuto.features.store import Slot, Store, StoreError
from tenuto.streams.batches import TP
from tenuto.streams.broker_log import BrokerLog, Extent

logger = logging.getLogger(__name__)


class FeatureProgress:
    """The entries of the partitions that this worker holds.

    Args:
        store: the state.
        log: the broker's side.
        topics: topic name on the broker by event name.
        reset: begin anew where the store belongs to another life of a topic, instead of refusing.
    """

    def __init__(
        self, store: Store, log: BrokerLog, topics: Mapping[str, str], *, reset: bool = False
    ) -> None:
        self.store = store
        self.log = log
        self.entries: dict[TP, Entry] = {}
        self._event_of = {topic: event for event, topic in topics.items()}
        self._reset = reset

    def slot(self, tp: TP) -> Slot:
        return self.store.slot(self._event_of[tp.topic], tp.partition)

    async def enter(self, partitions: Collection[TP]) -> dict[TP, int]:
        """Where to read each partition from, entering those that the store does not know.

        Raises:
            StoreError: the store has read another life of a topic, or further than it reaches.
        """
        extents = await self.log.extents(partitions)
        known = await self._entries(partitions)
        absent = [tp for tp in partitions if known[tp] is None]
        begun = await self._begin({tp: extents[tp] for tp in absent}) if absent else {}
        for tp in partitions:
            entry = begun.get(tp) or known[tp]
            assert entry is not None
            self.entries[tp] = await self._checked(tp, entry, extents[tp])
        return {tp: self.entries[tp].next for tp in partitions}

    def leave(self, partitions: Collection[TP]) -> None:
        """Forget partitions that another worker has now."""
        for tp in partitions:
            self.entries.pop(tp, None)

    async def lost(self) -> dict[TP, int]:
        """Partitions whose entry in the store is lower than known, or gone: where to go back to.

        An idle partition must notice a loss of Redis too, so this is asked every second.
        """
        held = list(self.entries)
        back: dict[TP, int] = {}
        if not held:
            return back
        seen = await self._entries(held)
        gone = [tp for tp in held if seen[tp] is None]
        if gone:
            logger.warning("redis has lost its positions: rebuilding %d partitions", len(gone))
            back.update(await self.enter(gone))
        for tp in held:
            entry = seen[tp]
            if entry is not None and entry.next < self.entries[tp].next:
                logger.warning("redis is older for %s[%d]: back to %d", *tp, entry.next)
                self.entries[tp] = entry
                back[tp] = entry.next
        return back

    async def _entries(self, partitions: Collection[TP]) -> dict[TP, Entry | None]:
        tps = list(partitions)
        slots = [self.slot(tp) for tp in tps]
        entries = await asyncio.to_thread(self.store.entries, slots)
        return dict(zip(tps, entries, strict=True))

    async def _begin(self, extents: Mapping[TP, Extent]) -> dict[TP, Entry]:
        """Enter partitions at the first record that a window can still need."""
        history_ms = self.store.layout.history_ms
        wanted = {
            tp: (extent.last.timestamp if extent.last else 0) - history_ms
            for tp, extent in extents.items()
        }
        first = await self.log.first_since(wanted)
        begun = {}
        for tp, extent in extents.items():
            origin, arrival = first.get(tp, (extent.begin, NO_ARRIVAL))
            origin = max(extent.begin, min(origin, extent.end))
            begun[tp] = await asyncio.to_thread(
                self.store.begin,
                self.slot(tp),
                await self.log.incarnation(tp.topic),
                origin,
                # Where nothing is left out, nothing is missing from a window.
                arrival if origin > 0 else NO_ARRIVAL,
                rebuild_until=extent.end,
            )
        return begun

    async def _checked(self, tp: TP, entry: Entry, extent: Extent) -> Entry:
        life = await self.log.incarnation(tp.topic)
        where = f"redis {self.store.prefix.decode()} has read {tp.topic}[{tp.partition}]"
        if entry.incarnation != life or entry.next > extent.end:
            other = "of another life of the topic" if entry.incarnation != life else (
                f"up to {entry.next}, and the log ends at {extent.end}"
            )  # fmt: skip
            if not self._reset:
                raise StoreError(f"{where} {other}: restart with --reset to rebuild from this log")
            logger.warning("%s %s: rebuilding", where, other)
            await asyncio.to_thread(self.store.clear)
            begun = await self._begin({tp: extent})
            return begun[tp]
        if entry.next < extent.begin:
            logger.warning("%s up to %d, and the log begins at %d", where, entry.next, extent.begin)
            first = (await self.log.first_since({tp: 0})).get(tp, (extent.begin, entry.arrival))
            moved = replace(
                entry,
                origin=extent.begin,
                origin_arrival=max(first[1], entry.arrival),
                next=extent.begin,
                batch_end=0,
                chunks=0,
                done=0,
            )
            return await asyncio.to_thread(self.store.replace, self.slot(tp), entry, moved)
        return entry
