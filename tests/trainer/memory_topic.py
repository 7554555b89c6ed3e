"""A samples topic in memory, and a source over it: a second implementation of the protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
from sample_rows import Asked, batch_of

from tenuto.snapshot.sample_partition import SamplePartition
from tenuto.snapshot.sample_record import Interval, encode_rows
from tenuto.trainer.positions import Position
from tenuto.trainer.sample_source import Read


@dataclass(frozen=True)
class Record:
    offset: int
    headers: list[tuple[str, bytes]]
    value: bytes | None


@dataclass
class Log:
    """Snapshots of some partitions and the records that joiners made of them."""

    asked: dict[int, list[Asked]]
    broken: Mapping[int, frozenset[int]]
    served: Sequence[str]
    records: dict[int, list[Record]] = field(default_factory=dict)

    @property
    def end_ms(self) -> int:
        return max(one.arrival_ms for asked in self.asked.values() for one in asked) + 1500

    def batch(self, partition: int, asked: Sequence[Asked]) -> pa.RecordBatch:
        """Rows of some of a partition's snapshots."""
        broken = self.broken.get(partition, frozenset())
        return batch_of(asked, partition, broken=broken, served=self.served)


def random_log(
    seed: int,
    *,
    partitions: int = 2,
    snapshots: int = 40,
    step_ms: int = 20_000,
    broken: Mapping[int, frozenset[int]] | None = None,
    served: Sequence[str] = (),
) -> Log:
    """A log with late requests, idle times, repeated records and a zombie's."""
    draw = np.random.default_rng(seed)
    log = Log({}, broken or {}, served)
    for partition in range(partitions):
        arrival_ms, offset, asked = 1_700_000_000_000, -1, []
        for _ in range(snapshots):
            offset += int(draw.choice([1, 1, 1, 3]))
            arrival_ms += int(draw.choice([0, 1, 1, 1, 1, 1, 1, 50]) * draw.integers(step_ms))
            late_ms = int(draw.choice([0, 0, 900, 30_000, -1000]))
            items = int(draw.integers(1, 6))
            asked.append(Asked(offset, arrival_ms, items, arrival_ms - late_ms))
        log.asked[partition] = asked
    for partition, asked in log.asked.items():

        def record(
            start: int,
            stop: int,
            *,
            asked: list[Asked] = asked,
            partition: int = partition,
            end: int = asked[-1].offset + 2,
        ) -> tuple[Interval, bytes | None]:
            inside = [one for one in asked if start <= one.offset < stop]
            before = [one.arrival_ms for one in asked if one.offset < stop]
            promise = log.end_ms if stop == end else max(before, default=0)
            value = encode_rows(log.batch(partition, inside)) if inside else None
            return Interval(start, stop, promise, stop == end), value

        end = asked[-1].offset + 2
        cuts = sorted({0, end, *draw.integers(1, end, size=snapshots // 3).tolist()})
        chain = [record(a, b) for a, b in pairwise(cuts)]
        for _ in range(3):
            at = int(draw.integers(1, len(chain)))
            start = int(draw.integers(0, end - 1))
            chain.insert(at, record(start, min(start + 5, end - 1)))
        log.records[partition] = [
            Record(number, interval.headers(), value)
            for number, (interval, value) in enumerate(chain)
        ]
    return log


class MemorySource:
    """Reads a log, some records at a time, as its seed has it."""

    def __init__(self, log: Log, positions: Mapping[int, Position], seed: int = 0) -> None:
        self._draw = np.random.default_rng(seed)
        self._log = log
        self._next = {p: positions[p].record if p in positions else 0 for p in log.records}
        self._parts = {
            p: SamplePartition(f"samples[{p}]", positions[p].snapshot if p in positions else None)
            for p in log.records
        }

    @property
    def missed(self) -> int:
        return sum(part.missed for part in self._parts.values())

    @property
    def gaps(self) -> int:
        return sum(part.chain.gaps for part in self._parts.values())

    @property
    def partitions(self) -> Sequence[int]:
        return sorted(self._parts)

    def poll(self, ahead: Collection[int]) -> list[Read]:
        found = []
        for partition, records in self._log.records.items():
            if partition in ahead:
                continue
            start = self._next[partition]
            stop = start + int(self._draw.integers(0, 6))
            self._next[partition] = min(stop, len(records))
            for record in records[start:stop]:
                if (added := self._parts[partition].take(record)) is None:
                    continue
                promise, end = added.interval.arrival_ms, added.interval.is_end
                found.append(Read(partition, added.rows, promise, end, record.offset, added.place))
        return found

    @property
    def exhausted(self) -> bool:
        return False

    def lag(self) -> dict[int, int]:
        return {}

    def close(self) -> None:
        pass
