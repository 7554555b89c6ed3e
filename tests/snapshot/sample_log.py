"""A small log of samples: snapshots with their rows, and the records that joiners make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa
from hypothesis import strategies as st

from tenuto.snapshot.chain import Chain, Kind, new_rows
from tenuto.snapshot.manifests import Manifest
from tenuto.snapshot.parquet import PartitionFiles
from tenuto.snapshot.sample_record import Interval, decode_rows, encode_rows
from tenuto.snapshot.samples import HASH_METADATA

HOUR_MS = 3_600_000
Record = tuple[Interval, bytes | None]


@dataclass(frozen=True)
class Shown:
    """One snapshot: how many rows it has, and which features."""

    offset: int
    arrival_ms: int
    items: int
    features: tuple[str, ...] = ("ctr",)


def schema_of(features: Sequence[str], digest: str = "h") -> pa.Schema:
    return pa.schema(
        [
            pa.field("request_id", pa.string(), False),
            pa.field("position", pa.int32()),
            *(
                pa.field(name, pa.float32(), False, {HASH_METADATA: digest + name})
                for name in features
            ),
            pa.field("clicked", pa.uint8(), False),
            pa.field("click_delay_ms", pa.int64()),
            pa.field("snapshot_partition", pa.int32(), False),
            pa.field("snapshot_offset", pa.int64(), False),
            pa.field("item_index", pa.int32(), False),
            pa.field("snapshot_arrival_ms", pa.int64(), False),
        ]
    )


def rows_of(snapshots: Sequence[Shown], partition: int = 0, digest: str = "h") -> pa.RecordBatch:
    rows = []
    for shown in snapshots:
        for item in range(shown.items):
            clicked = (shown.offset + item) % 3 == 0
            rows.append(
                {
                    "request_id": f"r{partition}-{shown.offset}",
                    "position": item if shown.offset % 2 else None,
                    **dict.fromkeys(shown.features, shown.offset + item / 8),
                    "clicked": int(clicked),
                    "click_delay_ms": 100 + item if clicked else None,
                    "snapshot_partition": partition,
                    "snapshot_offset": shown.offset,
                    "item_index": item,
                    "snapshot_arrival_ms": shown.arrival_ms,
                }
            )
    schema = schema_of(snapshots[0].features, digest)
    return pa.RecordBatch.from_pylist(rows, schema=schema)


@dataclass(frozen=True)
class Log:
    """One partition's snapshots up to its end mark at ``end - 1``."""

    snapshots: tuple[Shown, ...]
    end: int
    partition: int = 0

    def record(self, start: int, end: int) -> Record:
        """What a joiner writes for ``[start, end)``; snapshots there have one set of features."""
        inside = [shown for shown in self.snapshots if start <= shown.offset < end]
        before = [shown.arrival_ms for shown in self.snapshots if shown.offset < end]
        interval = Interval(start, end, max(before, default=0), end == self.end)
        return interval, encode_rows(rows_of(inside, self.partition)) if inside else None

    def chain(self, cuts: Sequence[int]) -> list[Record]:
        """Records over all of the log, cut at these offsets and wherever features change."""
        changes = [
            after.offset
            for before, after in pairwise(self.snapshots)
            if before.features != after.features
        ]
        edges = sorted({0, self.end, *changes, *(cut for cut in cuts if cut < self.end)})
        return [self.record(start, end) for start, end in pairwise(edges)]

    @property
    def request_ids(self) -> list[str]:
        return [f"r{self.partition}-{s.offset}" for s in self.snapshots for _ in range(s.items)]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    offset, arrival, features = -1, 10 * HOUR_MS, ("ctr",)
    snapshots = []
    for _ in range(draw(st.integers(0, 14))):
        offset += draw(st.sampled_from([1, 1, 1, 2, 9]))
        arrival += draw(st.sampled_from([0, 1000, 1000, HOUR_MS // 3]))
        features = draw(st.sampled_from([features, features, features, ("ctr",), ("ctr", "age")]))
        snapshots.append(Shown(offset, arrival, draw(st.integers(1, 5)), features))
    return Log(tuple(snapshots), offset + 1 + draw(st.integers(1, 9)))


@st.composite
def records_of(draw: st.DrawFn, log: Log) -> list[Record]:
    """A whole chain, with records of zombies and of joiners that start again in between."""
    cuts = st.lists(st.integers(1, log.end), max_size=8)
    records = log.chain(draw(cuts))
    for _ in range(draw(st.integers(0, 4))):
        other = draw(st.sampled_from(log.chain(draw(cuts))))
        # A topic's first record is never a zombie's: it has somebody to be replaced by.
        records.insert(draw(st.integers(1, len(records))), other)
    return records


def feed(
    files: PartitionFiles, records: Sequence[Record], *, stop: int | None = None
) -> list[Manifest]:
    """What a sink does, over records numbered from 0, up to number ``stop``."""
    chain = Chain(files.position, arrival_ms=files.arrival_ms)
    done: list[Manifest] = []
    for number, (interval, value) in enumerate(records[:stop]):
        if number < (files.samples_offset or 0) or files.ended:
            continue
        verdict = chain.take(interval)
        if verdict.kind is Kind.NEW:
            rows = new_rows(decode_rows(value), interval, verdict.since) if value else None
            done += files.write(interval, verdict.since, rows, number)
    return done
