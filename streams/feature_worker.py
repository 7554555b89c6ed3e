"""The feature agent: whole batches of events into the tiles in Redis, each exactly once.

Records are judged, summed and applied by batch. Progress moves in the scripts that add the
deltas, so whatever is read twice, by this worker or by another, counts once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from tenuto.features.aggregate import Aggregator
from tenuto.features.store import Elsewhere, Store
from tenuto.streams.batches import TP, Batch, Delivery
from tenuto.streams.codec import EventCodec
from tenuto.streams.door import Limits, judge
from tenuto.streams.feature_metrics import FeatureMetrics
from tenuto.streams.feature_progress import FeatureProgress
from tenuto.streams.intervals import cut, joined
from tenuto.streams.refusals import Refusal

logger = logging.getLogger(__name__)


class DeadLetters(Protocol):
    """Where refused records go; returns when they are safe there."""

    async def write(self, refusals: Sequence[Refusal]) -> None: ...


class FeatureWorker:
    """Applies batches, and goes where Redis's positions say.

    Args:
        store: the state.
        progress: where it stands.
        codecs: by topic name on the broker.
        limits: what a record must satisfy.
        dead_letters: for what is refused; written before progress moves past it.
        metrics: of this process.
    """

    def __init__(
        self,
        store: Store,
        progress: FeatureProgress,
        codecs: Mapping[str, EventCodec],
        limits: Limits,
        dead_letters: DeadLetters,
        metrics: FeatureMetrics,
    ) -> None:
        self.store = store
        self.progress = progress
        self.delivery: Delivery | None = None
        self._codecs = codecs
        self._limits = limits
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._aggregator = Aggregator(store.layout)
        # Parts of a batch that another worker began and that did not come in one fetch.
        self._parts: dict[TP, list[Batch]] = {}
        # Applying and looking for a loss must not see each other's half.
        self._lock = asyncio.Lock()

    # Positions, as whole-batch delivery asks for them.

    async def start_positions(self, partitions: set[TP]) -> Mapping[TP, int]:
        async with self._lock:
            await asyncio.to_thread(self.store.check)
            self._parts.clear()
            return await self.progress.enter(partitions)

    async def on_revoked(self, partitions: set[TP]) -> None:
        async with self._lock:
            self.progress.leave(partitions)
            self._metrics.reads.forget(partitions)
            for tp in partitions:
                self._parts.pop(tp, None)

    # What the agent does.

    async def take(self, batch: Batch) -> None:
        """Apply what a batch adds from where progress stands; go back where it has gaps."""
        assert self.delivery is not None, "install_batches() comes first"
        async with self._lock:
            # Looked at under the lock: a seek may have overtaken the batch while it waited.
            if not self.delivery.is_current(batch) or batch.tp not in self.progress.entries:
                return
            try:
                await self._take(batch)
            except Elsewhere as elsewhere:
                await self._follow(batch.tp, elsewhere)

    async def watch(self) -> None:
        """Notice a loss of Redis and read again what it has lost."""
        assert self.delivery is not None, "install_batches() comes first"
        async with self._lock:
            back = await self.progress.lost()
            for tp, offset in back.items():
                self._parts.pop(tp, None)
                self._metrics.rewinds.inc()
                await self.delivery.seek(tp, offset)

    async def sweep(self, all_partitions: Collection[TP]) -> int:
        """One small step of deleting what no reader can see; returns the keys deleted."""
        slots = [self.progress.slot(tp) for tp in all_partitions]
        entries = await asyncio.to_thread(self.store.entries, slots)
        arrivals = [entry.arrival for entry in entries if entry is not None]
        if len(arrivals) < len(slots):
            return 0
        deleted = await asyncio.to_thread(self.store.sweep, min(arrivals))
        self._metrics.swept.inc(deleted)
        return deleted

    async def _take(self, batch: Batch) -> None:
        tp = batch.tp
        entry = self.progress.entries[tp]
        held = self._parts.pop(tp, [])
        if held and held[-1].end == batch.start:
            batch = joined([*held, batch])
        if batch.end <= entry.next:
            return
        if batch.start > entry.next:
            raise Elsewhere(entry)
        if entry.batch_end > batch.end:
            # Begun by a worker that is gone: it is cut into the same chunks only as a whole.
            self._parts[tp] = [cut(batch, entry.next, batch.end)]
            return
        begun_end = entry.batch_end or batch.end
        await self._apply(cut(batch, entry.next, begun_end))
        if begun_end < batch.end:
            await self._apply(cut(batch, begun_end, batch.end))

    async def _apply(self, batch: Batch) -> None:
        tp, entry = batch.tp, self.progress.entries[batch.tp]
        codec = self._codecs[tp.topic]
        accepted = judge(codec, self._limits, batch, entry.arrival)
        if accepted.refused:
            await self._dead_letters.write(accepted.refused)
        event = codec.event.name
        deltas = self._aggregator.deltas(event, accepted.columns)
        slot, arrival = self.progress.slot(tp), accepted.arrival_after
        self.progress.entries[tp] = await asyncio.to_thread(
            self.store.apply, slot, entry, batch.end, arrival, deltas
        )
        self._metrics.applied(batch, accepted, event, len(deltas))

    async def _follow(self, tp: TP, elsewhere: Elsewhere) -> None:
        """Read on from where progress stands, whoever moved it."""
        assert self.delivery is not None
        self._metrics.rewinds.inc()
        self._parts.pop(tp, None)
        if elsewhere.entry is None:
            offset = (await self.progress.enter([tp]))[tp]
        else:
            self.progress.entries[tp] = elsewhere.entry
            offset = elsewhere.entry.next
        logger.info("%s[%d]: progress stands at %d, reading on from there", *tp, offset)
        await self.delivery.seek(tp, offset)
