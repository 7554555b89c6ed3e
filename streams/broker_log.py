"""What a worker asks the broker about its log: where it begins and ends, and whose life it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from tenuto.streams.batches import TP


@dataclass(frozen=True, slots=True)
class Extent:
    """The offsets that a partition holds: ``[begin, end)``."""

    begin: int
    end: int


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
        self._incarnations: dict[str, bytes] = {}

    async def start(self) -> None:
        """Connect."""
        self._consumer = AIOKafkaConsumer(**self._options, enable_auto_commit=False)
        await self._consumer.start()

    async def stop(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def incarnation(self, topic: str) -> bytes:
        """16 bytes that name this life of the topic; asked once."""
        if topic not in self._incarnations:
            self._incarnations[topic] = await asyncio.to_thread(self._incarnation, topic)
        return self._incarnations[topic]

    async def extents(self, partitions: Collection[TP]) -> dict[TP, Extent]:
        """Where each partition begins and ends now."""
        asked = [TopicPartition(*tp) for tp in partitions]
        begins = await self._connected.beginning_offsets(asked)
        ends = await self._connected.end_offsets(asked)
        return {TP(*tp): Extent(begins[tp], ends[tp]) for tp in asked}

    async def first_since(self, partitions: Mapping[TP, int]) -> dict[TP, tuple[int, int]]:
        """Offset and timestamp of the first record at or after each timestamp (ms).

        A partition without such a record is left out. A broker that cannot say answers its first
        record, or offset 0.
        """
        asked = {TopicPartition(*tp): max(0, ts) for tp, ts in partitions.items()}
        found = await self._connected.offsets_for_times(asked) if asked else {}
        return {
            TP(*tp): (at.offset, max(0, at.timestamp or 0))
            for tp, at in found.items()
            if at is not None and at.offset >= 0
        }

    async def last_records(self, extents: Mapping[TP, Extent]) -> dict[TP, Any]:
        """The last record of each partition that has one."""
        consumer = self._connected
        wanted = {TopicPartition(*tp): e for tp, e in extents.items() if e.end > e.begin}
        last: dict[TP, Any] = {}
        if not wanted:
            return last
        consumer.assign(list(wanted))
        for tp, extent in wanted.items():
            consumer.seek(tp, extent.end - 1)
        # A control record at the end is nothing to fetch: such a partition is left out.
        for _ in range(10):
            for tp, records in (await consumer.getmany(timeout_ms=300)).items():
                last[TP(*tp)] = records[-1]
            if len(last) == len(wanted):
                break
        consumer.unsubscribe()
        return last

    @property
    def _connected(self) -> AIOKafkaConsumer:
        assert self._consumer is not None, "start() comes first"
        return self._consumer
