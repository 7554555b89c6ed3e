"""A samples topic as a trainer follows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

from kafka import KafkaConsumer, TopicPartition

from tenuto.snapshot.sample_partition import SamplePartition, SampleTopicError
from tenuto.trainer.positions import Position
from tenuto.trainer.sample_source import Read


class TopicSource:
    """A samples topic, followed without a consumer group: where to go on is the checkpoint's.

    Args:
        topic: its name on the broker.
        options: of ``kafka.KafkaConsumer`` (bootstrap servers, security).
        positions: where to go on, by partition; from the first record without one.
        life: 16 bytes that name the topic's life, where they are known.
        wait_ms: how long to wait for something new.

    Raises:
        SampleTopicError: there is no such topic, or it is not the one that was read before.
    """

    def __init__(
        self,
        topic: str,
        options: Mapping[str, Any],
        positions: Mapping[int, Position] | None = None,
        *,
        life: bytes = b"",
        wait_ms: int = 200,
    ) -> None:
        self._life = life
        self._wait_ms = wait_ms
        self._paused: set[TopicPartition] = set()
        self._consumer = KafkaConsumer(
            **options, group_id=None, enable_auto_commit=False, auto_offset_reset="none"
        )
        try:
            self._parts = self._open(topic, positions or {})
        except BaseException:
            self._consumer.close()
            raise

    @property
    def partitions(self) -> Sequence[int]:
        return sorted(tp.partition for tp in self._parts)

    def poll(self, ahead: Collection[int]) -> list[Read]:
        paused = {tp for tp in self._parts if tp.partition in ahead}
        self._consumer.pause(*paused - self._paused)
        self._consumer.resume(*self._paused - paused)
        self._paused = paused
        found = []
        for tp, records in self._consumer.poll(timeout_ms=self._wait_ms).items():
            for record in records:
                added = self._parts[tp].take(record)
                if added is None:
                    continue
                promise, end = added.interval.arrival_ms, added.interval.is_end
                found.append(
                    Read(tp.partition, added.rows, promise, end, record.offset, added.place)
                )
        return found

    @property
    def exhausted(self) -> bool:
        return False

    def lag(self) -> dict[int, int]:
        found = {}
        for tp in self._parts:
            end, position = self._consumer.highwater(tp), self._consumer.position(tp)
            found[tp.partition] = max(0, (end or 0) - (position or 0))
        return found

    @property
    def missed(self) -> int:
        return sum(part.missed for part in self._parts.values())

    @property
    def gaps(self) -> int:
        return sum(part.chain.gaps for part in self._parts.values())

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(
        self, topic: str, positions: Mapping[int, Position]
    ) -> dict[TopicPartition, SamplePartition]:
        numbers = sorted(self._consumer.partitions_for_topic(topic) or ())
        if not numbers:
            raise SampleTopicError(f"there is no topic {topic!r}: create it, or start a joiner")
        tps = [TopicPartition(topic, number) for number in numbers]
        begins, ends = self._consumer.beginning_offsets(tps), self._consumer.end_offsets(tps)
        self._consumer.assign(tps)
        parts = {}
        for tp in tps:
            name, start = f"{tp.topic}[{tp.partition}]", positions.get(tp.partition)
            if start is not None and start.record > ends[tp]:
                raise SampleTopicError(
                    f"{name}@{start.record}: the checkpoint goes on from there, but the log ends "
                    f"at {ends[tp]}: it is another log: train a new model on it"
                )
            record = begins[tp] if start is None else max(start.record, begins[tp])
            deleted = start is not None and record > start.record
            self._consumer.seek(tp, record)
            parts[tp] = SamplePartition(
                name,
                None if start is None else start.snapshot,
                life=self._life,
                # Where all are deleted, of the first one to come.
                deleted_before=max(ends[tp], record + 1) if deleted else 0,
            )
        return parts
