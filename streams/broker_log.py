"""What a worker asks the broker about its log: where it begins and ends, and whose life it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from tenuto.streams.batches import TP

_MAX_FETCHES = 100


@dataclass(frozen=True, slots=True)
class Extent:
    """What a partition holds: offsets ``[begin, end)``, and its last record.

    ``last`` is None where there is none, or a transaction's marker is in its place.
    """

    begin: int
    end: int
    last: Any = None


class BrokerLog:
    """Asks through a consumer of its own, without a group.

    Args:
        options: of ``aiokafka.AIOKafkaConsumer`` (bootstrap servers, security).
        incarnation: blocking function from a topic's name to the 16 bytes of its life.
    """

    def __init__(self, options: Mapping[str, Any], incarnation: Callable[[str], bytes]) -> None:
        self._options = dict(options)
        self._incarnation = incarnation
        self._consumer: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Connect."""
        self._consumer = AIOKafkaConsumer(**self._options, enable_auto_commit=False)
        await self._consumer.start()

    async def stop(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def incarnation(self, topic: str) -> bytes:
        """16 bytes that name this life of the topic; asked anew, for it may have been recreated."""
        return await asyncio.to_thread(self._incarnation, topic)

    async def extents(self, partitions: Collection[TP]) -> dict[TP, Extent]:
        """Where each partition begins and ends now."""
        consumer = self._connected
        asked = [TopicPartition(*tp) for tp in partitions]
        begins = await consumer.beginning_offsets(asked)
        ends = await consumer.end_offsets(asked)
        filled = [tp for tp in asked if ends[tp] > begins[tp]]
        last: dict[TP, Any] = {}
        if filled:
            consumer.assign(filled)
            for tp in filled:
                consumer.seek(tp, ends[tp] - 1)
            for _ in range(_MAX_FETCHES):
                for tp, records in (await consumer.getmany(timeout_ms=300)).items():
                    at_end = (record for record in records if record.offset == ends[tp] - 1)
                    last.update({TP(*tp): record for record in at_end})
                waiting = [tp for tp in filled if await consumer.position(tp) < ends[tp]]
                if not waiting:
                    break
            else:
                raise TimeoutError(f"{waiting[0]}: its end could not be read")
            consumer.unsubscribe()
        return {TP(*tp): Extent(begins[tp], ends[tp], last.get(TP(*tp))) for tp in asked}

    async def first_since(self, partitions: Mapping[TP, int]) -> dict[TP, tuple[int, int]]:
        """Offset and timestamp of the first record at or after each timestamp (ms).

        A partition without such a record is left out.
        """
        asked = {TopicPartition(*tp): max(0, ts) for tp, ts in partitions.items()}
        found = await self._connected.offsets_for_times(asked) if asked else {}
        return {
            TP(*tp): (at.offset, max(0, at.timestamp or 0))
            for tp, at in found.items()
            if at is not None and at.offset >= 0
        }

    @property
    def _connected(self) -> AIOKafkaConsumer:
        assert self._consumer is not None, "start() comes first"
        return self._consumer
