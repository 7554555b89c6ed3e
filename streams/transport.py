"""Whole batches through Faust: one message per (partition, fetch), by a subclass of its driver.

The consumer keeps the order of the batches in flight, so that the committed offset moves past
finished ones only. Fetching is in ``tenuto.streams.fetching``, what a batch is in
``tenuto.streams.batches``, building and running an app in ``tenuto.streams.worker``.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from time import monotonic
from typing import Any

import faust
from faust.transport.consumer import ensure_TPset
from faust.transport.drivers import aiokafka as driver
from faust.types import ConsumerMessage
from prometheus_client import Gauge

from tenuto.streams.batches import TP, Batch, Delivery, Positions
from tenuto.streams.fetching import BatchThread

log = logging.getLogger(__name__)


def install_batches(
    app: faust.App, positions: Positions, in_flight: Gauge | None = None
) -> Delivery:
    """Make ``app``'s agents read batches, started from ``positions``; call it before the start.

    Args:
        app: from ``tenuto.streams.worker.faust_app``, whose topics hand batches on undecoded.
        positions: asked where to start on each assignment.
        in_flight: told the bytes of the batches that are in memory, whoever holds them.

    Raises:
        ValueError: the app would try to decode batches.
    """
    if not issubclass(app.conf.Schema, BatchSchema):
        raise ValueError(f"app {app.conf.id!r} decodes its messages: build it with faust_app()")
    app.transport = BatchTransport(app.conf.broker_consumer, app)
    app.transport.positions = positions
    app.transport.in_flight = in_flight
    return _Delivery(app)


class BatchSchema(faust.Schema):  # type: ignore[misc]
    """Hands a batch from the topic to the stream as it is."""

    def compile(self, app: faust.App, **_: Any) -> Callable[..., Any]:
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return create_event(None, message.value, None, message)

        return decode


class BatchConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer, whose messages are batches and whose commits follow finished batches."""

    _thread: BatchThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Faust drops messages that lie before its own idea of the position: after a seek that
        # idea can be wrong. The thread's expected position and generation are what counts here.
        self._read_offset = _NoOffsets()
        self._in_flight: dict[TP, deque[_Ticket]] = {}

    def _new_consumer_thread(self) -> BatchThread:
        return BatchThread(self, loop=self.loop, beacon=self.beacon)

    # What an agent asks for (see Delivery).

    def is_current(self, batch: Batch) -> bool:
        return self._thread.generations.get(batch.tp) == batch.generation

    async def seek(self, partition: tuple[str, int], offset: int) -> None:
        await self._seek_all({TP(*partition): offset})

    def resume_partitions(self, tps: Iterable[Any]) -> None:
        # Faust adds them as they come, and asserts its own class of them later.
        super().resume_partitions(ensure_TPset(tps))
        self._thread.wake()

    # Where reading starts.

    async def perform_seek(self) -> None:
        await self.seek_to_committed()

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Start where the application stands; by committed offset where it doesn't say."""
        # When one rebalance follows upon another, Faust ends the first one's recovery within the
        # second and lets records flow: a batch from before would be taken for one that follows
        # upon the positions that the application is about to say.
        await self._thread.call_thread(self._thread.forget_all)
        committed = {TP(*tp): at for tp, at in (await super().seek_to_committed()).items()}
        # Faust takes its own timeout around this for a stop, and would idle for ever.
        async with asyncio.timeout(self.app.conf.broker_request_timeout * 0.8):
            known = await self.transport.positions.start_positions(set(committed))
            positions = {tp: known.get(tp, at) for tp, at in committed.items()}
            unknown = [tp for tp, at in positions.items() if at is None]
            if unknown:
                earliest = await self.earliest_offsets(*unknown)
                positions.update({TP(*tp): at for tp, at in earliest.items()})
        await self._seek_all(positions)
        return positions

    async def _seek_all(self, positions: Mapping[TP, int]) -> None:
        await self._thread.call_thread(self._thread.seek_all, positions)
        for tp in positions:
            generation = self._thread.generations.get(tp)
            tickets = self._in_flight.pop(tp, ())
            kept = deque(ticket for ticket in tickets if ticket.generation == generation)
            if kept:
                self._in_flight[tp] = kept

    # Delivery.

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        await self._wait_for_flow()
        if self.should_stop:
            return
        active = self._get_active_partitions()
        for batch in await self._thread.call_thread(self._thread.fetch, active, timeout):
            # Between seek and resumption a batch of the new generation can already have come.
            await self._wait_for_flow()
            if self.should_stop:
                return
            if self.is_current(batch):
                yield batch.tp, self._message(batch)

    async def _wait_for_flow(self) -> None:
        while not self.flow_active and not self.should_stop:
            await self.wait(self.can_resume_flow)

    def _message(self, batch: Batch) -> _BatchMessage:
        in_flight = self.transport.in_flight
        if in_flight is not None:
            n_bytes = batch.nbytes
            in_flight.inc(n_bytes)
            weakref.finalize(batch, in_flight.dec, n_bytes).atexit = False
        ticket = _Ticket(batch.end, batch.generation)
        self._in_flight.setdefault(batch.tp, deque()).append(ticket)
        return _BatchMessage(batch, ticket, self.app.consumer_generation_id)

    def on_buffer_full(self, tp: TP) -> None:
        """Nothing: a full buffer blocks the drain loop, which holds one fetch at most."""

    def on_buffer_drop(self, tp: TP) -> None:
        """Nothing: see ``on_buffer_full``."""

    # Commits.

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (
            tp for tp in list(self._in_flight)
            if topics is None or tp in topics or tp.topic in topics
        )  # fmt: skip

    def _new_offset(self, tp: TP) -> int | None:
        tickets = self._in_flight.get(tp, deque())
        end = None
        while tickets and tickets[0].finished:
            end = tickets.popleft().end
        for bookkeeping in (self._acked, self._acked_index):
            bookkeeping.pop(tp, None)
        return end

    def _should_commit(self, tp: TP, offset: int) -> bool:
        return bool(self._committed_offset[tp] != offset)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing: a batch's interval includes its gaps."""

    async def wait_empty(self) -> None:
        """Let the batch in hand be finished, for half a session at most, and commit."""
        deadline = monotonic() + self.app.conf.broker_session_timeout / 2
        while self._batch_in_hand() and not self.should_stop and monotonic() < deadline:
            await self._wait_for_ack(timeout=1)
        try:
            # A commit is a hint only: a broker that is away must not keep a worker from its stop.
            async with asyncio.timeout(self.app.conf.broker_session_timeout / 2):
                await self.commit_and_end_transactions()
        except TimeoutError:
            log.warning("kafka does not answer: positions are not committed, and not needed")

    async def commit_and_end_transactions(self) -> None:
        """Commit what is finished now, before the partitions are another worker's.

        Faust leaves it to a commit that is under way, which may have begun before the batch in
        hand was finished: the next worker would be told to apply that once more.
        """
        while (under_way := self._commit_fut) is not None and not under_way.done():
            # To await it alone would cancel it for everybody at a timeout, and go on.
            await asyncio.wait([under_way])
        await super().commit_and_end_transactions()

    def _batch_in_hand(self) -> bool:
        return any(not message.acked for message in self._unacked_messages)

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._in_flight.pop(tp, None)
            self._committed_offset.pop(tp, None)
        await self.transport.positions.on_revoked({TP(*tp) for tp in revoked})


class BatchTransport(driver.Transport):  # type: ignore[misc]
    """Faust's aiokafka transport with batches; ``positions`` says where to start."""

    Consumer = BatchConsumer
    positions: Positions
    in_flight: Gauge | None = None


class _Delivery:
    """Faust makes its consumer when the app starts: this finds it."""

    def __init__(self, app: faust.App) -> None:
        self._app = app

    def is_current(self, batch: Batch) -> bool:
        return bool(self._app.consumer.is_current(batch))

    async def seek(self, tp: tuple[str, int], offset: int) -> None:
        await self._app.consumer.seek(tp, offset)

    def pause(self, partitions: set[TP]) -> None:
        self._app.consumer.pause_partitions(partitions)

    def resume(self, partitions: set[TP]) -> None:
        self._app.consumer.resume_partitions(partitions)


class _Ticket:
    """What is kept of a batch until its end is committed: not its records."""

    __slots__ = ("end", "finished", "generation")

    def __init__(self, end: int, generation: int) -> None:
        self.end = end
        self.generation = generation
        self.finished = False


class _BatchMessage(ConsumerMessage):  # type: ignore[misc]
    """A batch as Faust's message, whose ticket is finished when the agent asks for the next.

    Faust's compiled iterator acknowledges by assigning ``acked`` and calls no method. It does so
    too when it is closed because the agent raised or was cancelled in the middle of this batch,
    and often before anything else has noticed: that is no finished batch.
    """

    __slots__ = ("_acked", "_ticket")

    def __init__(self, batch: Batch, ticket: _Ticket, generation_id: int) -> None:
        self._ticket = ticket
        timestamp_s = batch.timestamps_ms[-1] / 1000 if len(batch) else 0.0
        super().__init__(
            batch.topic, batch.partition, batch.start, timestamp_s, 0, None, None, batch, None,
            0, 0, TP(batch.topic, batch.partition), generation_id=generation_id,
        )  # fmt: skip

    @property
    def acked(self) -> bool:
        return self._acked

    @acked.setter
    def acked(self, acked: bool) -> None:
        self._acked = acked
        if acked and not isinstance(sys.exception(), GeneratorExit):
            self._ticket.finished = True


class _NoOffsets(dict[Any, Any]):
    """A mapping that knows no offset and learns none."""

    def __getitem__(self, tp: Any) -> None:
        return None

    def __setitem__(self, tp: Any, offset: Any) -> None:
        pass
