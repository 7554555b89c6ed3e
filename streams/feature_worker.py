"""The feature agent: whole batches of events into the tiles in Redis, each exactly once.

Records are judged, summed and applied by batch. Progress moves in the scripts that add the
deltas, so whatever is read twice, by this worker or by another, counts once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import redis

from tenuto.features.aggregate import Aggregator
from tenuto.features.buckets import Buckets, Moved, Part, PreparedBuckets, next_part
from tenuto.features.progress import UNKNOWN_ARRIVAL, Entry
from tenuto.features.sweeper import Sweeper
from tenuto.streams.batches import TP, Batch, Delivery
from tenuto.streams.codec import EventCodec
from tenuto.streams.door import Accepted, Limits, judge
from tenuto.streams.feature_metrics import FeatureMetrics
from tenuto.streams.feature_progress import FeatureProgress
from tenuto.streams.full_store import FullStore, StoreFullError, is_full
from tenuto.streams.intervals import cut, joined
from tenuto.streams.refusals import Refusal

logger = logging.getLogger(__name__)


class DeadLetters(Protocol):
    """Where refused records go; returns when they are safe there."""

    async def write(self, refusals: Sequence[Refusal]) -> None: ...


@dataclass(slots=True, eq=False)
class _Flight:
    """A batch that is being applied while the next one is prepared."""

    prepared: PreparedBuckets
    batch: Batch
    accepted: Accepted
    task: asyncio.Task[None] | None = None


class FeatureWorker:
    """Applies batches, and goes where Redis's positions say.

    Args:
        store: the state.
        progress: where it stands.
        codecs: by topic name on the broker.
        limits: what a record must satisfy.
        dead_letters: for what is refused; written before progress moves past it.
        metrics: of this process.
        full: waits while the store takes no writes.
    """

    def __init__(
        self,
        store: Buckets,
        progress: FeatureProgress,
        codecs: Mapping[str, EventCodec],
        limits: Limits,
        dead_letters: DeadLetters,
        metrics: FeatureMetrics,
        full: FullStore,
    ) -> None:
        self.store = store
        self.progress = progress
        self.delivery: Delivery | None = None
        self._codecs = codecs
        self._limits = limits
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._full = full
        self._aggregator = Aggregator(store.layout)
        self._sweeper = Sweeper(store.stores)
        # Parts of a batch that another worker began and that did not come in one fetch.
        self._parts: dict[TP, list[Batch]] = {}
        # One batch at most: where it leaves progress is known before it has got there.
        self._flight: _Flight | None = None
        # Applying and looking for a loss must not see each other's half.
        self._lock = asyncio.Lock()

    # Positions, as whole-batch delivery asks for them.

    async def start_positions(self, partitions: set[TP]) -> Mapping[TP, int]:
        async with self._lock:
            await self._land()
            self._full.stay()
            await self.guard()
            self._parts.clear()
            return await self.progress.enter(partitions)

    async def on_revoked(self, partitions: set[TP]) -> None:
        self._full.leave()
        async with self._lock:
            await self._land()
            self.progress.leave(partitions)
            self._metrics.reads.forget(partitions)
            for tp in partitions:
                self._parts.pop(tp, None)

    # What the agent does.

    async def take(self, batch: Batch) -> None:
        """Apply what a batch adds from where progress stands; go back where it has gaps.

        Returns while the batch is still being applied, so that the next one is prepared
        meanwhile; ``flush`` waits for it.
        """
        assert self.delivery is not None, "install_batches() comes first"
        async with self._lock:
            # Looked at under the lock: a seek may have overtaken the batch while it waited.
            while self.delivery.is_current(batch) and batch.tp in self.progress.entries:
                try:
                    if await self._take(batch):
                        return
                except Moved as moved:
                    await self._follow(batch.tp, moved)
                except StoreFullError:
                    if not self._full.leaving:
                        raise
                    return

    async def flush(self) -> None:
        """Return once everything that was taken is applied, or its partition read again."""
        async with self._lock:
            await self._land()

    async def finish(self) -> None:
        """As ``flush``, but a batch for which Redis has no memory is left to the next worker."""
        self._full.leave()
        await self.flush()

    async def watch(self) -> None:
        """Notice a loss of Redis and read again what it has lost."""
        assert self.delivery is not None, "install_batches() comes first"
        async with self._lock:
            await self._land()
            back = await self.progress.lost()
            for tp, offset in back.items():
                self._parts.pop(tp, None)
                self._metrics.rewinds.inc()
                await self.delivery.seek(tp, offset)
            self._metrics.rebuilds.show(self.progress.entries)

    async def guard(self) -> None:
        """Look how full Redis is, and whether it evicts or has evicted.

        Raises:
            StoreError: it does, or has: counts are gone while positions stayed.
        """
        health = await asyncio.to_thread(self.store.check)
        self._metrics.fills(health.used_bytes, health.max_bytes)

    async def sweep(self, all_partitions: Collection[TP], most_s: float = 0.0) -> int:
        """Delete what no reader can see: a small step, more while there is much; keys deleted."""
        slots = [self.progress.slot(tp) for tp in all_partitions]
        found = await asyncio.to_thread(self.store.entries, slots)
        entries = [entry for by_bucket in found for entry in by_bucket]
        arrivals = [entry.arrival for entry in entries if entry is not None]
        if len(arrivals) < len(entries):
            return 0
        deleted = await asyncio.to_thread(self._sweeper.turn, min(arrivals), most_s)
        self._metrics.swept.inc(deleted)
        self._metrics.holds(self._sweeper.held)
        return deleted

    async def _take(self, batch: Batch) -> bool:
        """Whether the batch is dealt with; otherwise progress has moved under it: look again."""
        tp = batch.tp
        entries = self._expected(tp)
        if any(_is_behind_a_gap(batch, entry) for entry in entries):
            if not await self._land():
                await self._skip_gap(batch)
            return False
        at = min(entry.next for entry in entries)
        held = self._parts.get(tp, [])
        whole = joined([*held, batch]) if held and held[-1].end == batch.start else batch
        if whole.start > at:
            if await self._land():
                return False
            raise Moved(entries)
        while at < whole.end:
            part = next_part(entries, whole.end)
            if part.end > whole.end:
                # Begun by a worker that is gone: it is cut into the same chunks only as a whole.
                self._parts[tp] = [cut(whole, at, whole.end)]
                return True
            unknown = [b for b in part.buckets if entries[b].origin_arrival == UNKNOWN_ARRIVAL]
            rest = cut(whole, at, whole.end)
            if unknown and len(rest):
                if not await self._land():
                    for bucket in unknown:
                        origin = entries[bucket].origin
                        await self.progress.move_origin(tp, bucket, origin, _first_ms(rest))
                return False
            if not await self._apply(cut(rest, at, part.end), entries, part):
                return False
            entries = self._expected(tp)
            at = min(entry.next for entry in entries)
        self._parts.pop(tp, None)
        return True

    async def _skip_gap(self, batch: Batch) -> None:
        """Declare what retention deleted before it was read."""
        tp, begin = batch.tp, batch.start + batch.missed
        behind = {
            bucket: entry.next
            for bucket, entry in enumerate(self.progress.entries[tp])
            if _is_behind_a_gap(batch, entry)
        }
        self._metrics.missed.labels(tp.topic).inc(begin - min(behind.values()))
        for bucket in behind:
            await self.progress.move_origin(tp, bucket, begin, _first_ms(batch))

    async def _apply(self, batch: Batch, entries: tuple[Entry, ...], part: Part) -> bool:
        """Prepare a batch while the one before it is applied; False if that moved progress."""
        tp = batch.tp
        codec = self._codecs[tp.topic]
        accepted = judge(codec, self._limits, batch, entries[part.buckets[0]].arrival)
        event = codec.event.name
        prepared = self.store.prepare(
            self.progress.slot(tp),
            entries,
            part,
            accepted.arrival_after,
            self._aggregator.deltas(event, accepted.columns),
        )
        await self._land()
        if self.progress.entries.get(tp) != entries:
            return False
        if accepted.refused:
            await self._dead_letters.write(accepted.refused)
        if prepared.n_calls <= 1:
            try:
                # One short script: handing it to a thread would take longer.
                self.store.run(prepared)
            except redis.ResponseError as error:
                if not is_full(error):
                    raise
            else:
                self._applied(prepared, batch, accepted)
                return True
        self._flight = _Flight(prepared, batch, accepted)
        self._flight.task = asyncio.create_task(self._fly(self._flight))
        return True

    def _expected(self, tp: TP) -> tuple[Entry, ...]:
        """Where a partition stands in each bucket once the batch in flight is applied."""
        if self._flight is not None and self._flight.batch.tp == tp:
            return self._flight.prepared.after
        return self.progress.entries[tp]

    async def _fly(self, flight: _Flight) -> None:
        try:
            await self._full.through(partial(self.store.run, flight.prepared))
        except Moved as moved:
            await self._follow(flight.batch.tp, moved)
        except StoreFullError:
            if not self._full.leaving:
                raise
            # Where it stands is asked again before anything more is read.
            logger.warning("%s[%d]: left in the middle of a batch", *flight.batch.tp)
        else:
            self._applied(flight.prepared, flight.batch, flight.accepted)
        self._flight = None

    def _applied(self, prepared: PreparedBuckets, batch: Batch, accepted: Accepted) -> None:
        self.progress.entries[batch.tp] = prepared.after
        if self.progress.position(batch.tp) < batch.end:
            # It counts once it is in every bucket.
            return
        event = self._codecs[batch.topic].event.name
        self._metrics.applied(batch, accepted, event, prepared.entities)

    async def _land(self) -> bool:
        """Wait for the batch in flight; whether there was one. Comes first under the lock."""
        flight = self._flight
        if flight is None:
            return False
        assert flight.task is not None, "a flight is a task from its start"
        # A stop that cancels whoever waits must not cancel what is waited for.
        await asyncio.shield(flight.task)
        return True

    async def _follow(self, tp: TP, moved: Moved) -> None:
        """Read on from where progress stands, whoever moved it."""
        assert self.delivery is not None
        self._metrics.rewinds.inc()
        self._parts.pop(tp, None)
        found = tuple(entry for entry in moved.entries if entry is not None)
        if len(found) < len(moved.entries):
            await self.progress.enter([tp])
        else:
            self.progress.entries[tp] = found
        offset = self.progress.position(tp)
        logger.info("%s[%d]: progress stands at %d, reading on from there", *tp, offset)
        await self.delivery.seek(tp, offset)


def _is_behind_a_gap(batch: Batch, entry: Entry) -> bool:
    """Whether the log has begun beyond where progress stands, and the entry does not say so."""
    begin = batch.start + batch.missed
    return batch.missed > 0 and begin > entry.next and begin > entry.origin


def _first_ms(batch: Batch) -> int:
    """Arrival of a batch's first record, as far as the batch says it."""
    return int(batch.timestamps_ms[0]) if len(batch) else UNKNOWN_ARRIVAL
