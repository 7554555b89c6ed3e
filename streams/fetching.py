"""Faust's consumer thread, fetching whole batches: what aiokafka has got is cut up by partition.

This thread's event loop owns aiokafka's consumer. Which batches are delivered, and what is
committed, is for ``tenuto.streams.transport``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import ConsumerStoppedError
from faust.transport.drivers import aiokafka as driver

from tenuto.streams.batches import TP, Batch, LogTruncatedError

log = logging.getLogger(__name__)

# Values that one fetch takes, and records between two looks at it.
MAX_FETCH_BYTES = 16 << 20
_PIECE = 64


class BatchThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread, which owns aiokafka's consumer: fetches, and seeks between fetches.

    Whatever touches positions runs in this thread's event loop without a wait in between, so that a
    seek falls before or after a fetch, never into it.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.generations: dict[TP, int] = {}
        self._expected: dict[TP, int] = {}
        self._seeks = 0
        self._waiter: asyncio.Future[None] | None = None
        self._fetcher: Any = None
        self._wanting = False

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = self.app.fetch_max_wait_ms
        # Partitions of one number go to one worker, whatever their topic: joins need that.
        consumer._partition_assignment_strategy = (RangePartitionAssignor,)
        return consumer

    async def forget_all(self) -> None:
        """Deliver nothing until the next seek, and let no batch that is on its way be current."""
        self.generations.clear()
        self._expected.clear()

    async def seek_all(self, positions: Mapping[TP, int]) -> None:
        """Read the partitions that are still assigned from these positions: a new generation."""
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        for tp, offset in positions.items():
            if tp in assigned:
                consumer.seek(tp, offset)
                self._seeks += 1
                self.generations[tp] = self._seeks
                self._expected[tp] = offset

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        for tp in revoked:
            self.generations.pop(tp, None)
            self._expected.pop(tp, None)
        await super().on_partitions_revoked(revoked)

    def wake(self) -> None:
        """Look again at which partitions are active; safe to call from any thread."""
        self.thread_loop.call_soon_threadsafe(self._wake)

    async def fetch(self, active: set[Any], timeout: float) -> list[Batch]:
        """What has arrived for the partitions that are active then, at most one batch for each."""
        consumer = self._ensure_consumer()
        fetcher = consumer._fetcher
        if fetcher is not self._fetcher:
            self._fetcher = fetcher
            self._ask_when_wanted(fetcher)
        self._wanting = True
        fetcher._notify(fetcher._wait_consume_future)
        try:
            return await self._fetch(consumer, fetcher, active, timeout)
        finally:
            self._wanting = False

    async def _fetch(
        self, consumer: Any, fetcher: Any, active: set[Any], timeout: float
    ) -> list[Batch]:
        deadline = self.thread_loop.time() + timeout
        while self.consumer.flow_active:
            if consumer._closed or fetcher._closed:
                raise ConsumerStoppedError()
            if not fetcher._subscriptions.reassignment_in_progress:
                # From the check above to the end of this no other task runs: with timeout=0
                # and no reassignment, fetched_records() does not wait.
                batches = await self._take(fetcher, frozenset(active))
                if batches:
                    return batches
            left = deadline - self.thread_loop.time()
            if left <= 0:
                break
            self._waiter = fetcher._create_fetch_waiter()
            await asyncio.wait([self._waiter], timeout=left)
            if not self._waiter.done():
                self._waiter.cancel()
            elif not self._waiter.cancelled():
                self._waiter.result()
        return []

    def _ask_when_wanted(self, fetcher: Any) -> None:
        """Let aiokafka send a fetch only while one is waited for here and nothing is there to take.

        By itself it asks ahead: what waits in its memory is as old as a round over all partitions
        takes. After 0.1 s it even asks for those partitions alone of which nothing waits. Then the
        broker has nothing to answer and holds the fetch for its whole time, and as a node answers
        one fetch at a time, the busy partitions are read twice a second from then on.
        """
        actions = fetcher._get_actions_per_node

        def wanted(assignment: Any) -> Any:
            fetches, *others = actions(assignment)
            return fetches if self._wanting else [], *others

        fetcher._get_actions_per_node = wanted

    async def _take(self, fetcher: Any, active: frozenset[Any]) -> list[Batch]:
        assignment = fetcher._subscriptions.subscription.assignment
        ready: dict[TP, Any] = {}
        missed: dict[TP, int] = {}
        for tp in active:
            state = assignment.state_value(tp) if tp in self._expected else None
            if state is not None and state.has_valid_position:
                ready[tp] = state
                missed[tp] = self._missed(tp, state.position)
        # To aiokafka, no partitions would mean all of them.
        if not ready:
            return []
        room = Room(MAX_FETCH_BYTES)
        for tp, fetched in fetcher._records.items():
            if tp in ready and type(fetched) is FetchResult:
                fetched.getall = partial(_raw_records, fetched, room)
        try:
            with fetcher._subscriptions.fetch_context():
                records = await fetcher.fetched_records(
                    ready.keys(), timeout=0, max_records=self._consumer._max_poll_records
                )
        except KeyError:
            # A rebalance took a partition away in between. What was taken of others goes back.
            log.info("fetch interrupted by a rebalance: read again")
            for tp, state in ready.items():
                if state.has_valid_position and state.position != self._expected[tp]:
                    fetcher.seek_to(tp, self._expected[tp])
            return []
        batches = []
        for tp, state in ready.items():
            # Without records too: a transaction's marker or an emptied segment moves the position.
            if state.has_valid_position and state.position != self._expected[tp]:
                batches.append(self._batch(tp, state, records.get(tp, ()), missed[tp]))
        return batches

    def _missed(self, tp: TP, position: int) -> int:
        """How far aiokafka has moved by itself, as it does when a position is out of range."""
        missed = position - self._expected[tp]
        if missed < 0:
            raise LogTruncatedError(
                f"{tp.topic}[{tp.partition}]@{self._expected[tp]}: the log ends before this "
                f"position (reading would restart at {position}): it was truncated or recreated; "
                f"reset the application's positions if that was intended"
            )
        if missed:
            log.error("%s[%d]: %d offsets from %d on were deleted before they were read",
                      tp.topic, tp.partition, missed, self._expected[tp])  # fmt: skip
        return missed

    def _batch(self, tp: TP, state: Any, records: Any, missed: int) -> Batch:
        start, end = self._expected[tp], state.position
        self._expected[tp] = end
        count = len(records)
        return Batch(
            topic=tp.topic,
            partition=tp.partition,
            start=start,
            end=end,
            generation=self.generations[tp],
            missed=missed,
            log_end=max(state.highwater or 0, end),
            offsets=np.fromiter((r.offset for r in records), np.int64, count),
            timestamps_ms=np.fromiter((r.timestamp for r in records), np.int64, count),
            keys=[r.key for r in records],
            values=[r.value for r in records],
            headers=[r.headers for r in records],
        )

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Room:
    """How many bytes of values one fetch may still take, over all of its partitions."""

    def __init__(self, n_bytes: int) -> None:
        self.left = n_bytes


def _raw_records(fetched: FetchResult, room: Room, limit: int) -> list[Any]:
    """``FetchResult.getall`` without its loop and without a dataclass per record: half the cost.

    It ends within a few records of the ``room``, too: what was sent compressed can be far larger
    than what was fetched. The rest stays as it is for the next fetch.
    """
    if room.left <= 0:
        return []
    if not fetched.check_assignment(fetched._topic_partition) or not fetched.has_more():
        return []
    partition_records = fetched._partition_records
    partition_records._consumer_record = _as_it_is
    records: list[Any] = []
    ended = False
    while not ended and room.left > 0 and len(records) < limit:
        wanted = min(_PIECE, limit - len(records))
        piece = list(islice(partition_records._records_iterator, wanted))
        room.left -= sum([len(record.value) for record in piece if record.value is not None])
        records += piece
        ended = len(piece) < wanted
    fetched._update_position()
    if ended:
        fetched._partition_records = None
    return records


def _as_it_is(tp: Any, record: Any) -> Any:
    return record
