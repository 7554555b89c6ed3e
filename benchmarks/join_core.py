"""Speed and memory of the join's pure core: add, join and evict, without Kafka.

A seeded world of requests that show ten items each, impressions of all, clicks on one in ten and
three play reports for most clicks; ids are about 30 bytes. Run ``python benchmarks/join_core.py``;
``--help`` lists what can be varied. It prints label rows per second of processor time, bytes per
waiting label, and a checksum of the joined columns that no batch or block size changes.
"""

from __future__ import annotations

import argparse
import hashlib
import time
import zlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from tenuto.presets.video_events import clicks, impressions, likes, plays
from tenuto.snapshot.join import SnapshotBlock, join, label_schema
from tenuto.snapshot.label_memory import LabelBatch, LabelMemory
from tenuto.snapshot.labels import SampleStream, first, longest, total

EPOCH_MS = 1_700_000_000_000
STREAM = SampleStream(
    "default",
    [
        first(clicks, "clicked", window="30m", delay="click_delay_ms"),
        longest(plays, "play_ms", "longest_play_ms", window="30m", carry=("duration_ms",)),
        first(plays, "converted", window="30m", where="converted", delay="conversion_delay_ms"),
        total(plays, "play_ms_delta", "played_ms", window="30m"),
    ],
)
EVENTS = [impressions, clicks, plays, likes]


class World:
    """Requests of one partition at an even rate, and what users did."""

    def __init__(self, requests: int, items: int, catalogue: int, per_s: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.items = items
        self.request_ts = EPOCH_MS + np.arange(requests) * 1000 // max(per_s // items, 1)
        self.request_ids = np.array(
            [f"req-{zlib.crc32(b'%d' % i):010d}-{i:015d}" for i in range(requests)]
        )
        ids = np.array([f"item-{number:025d}" for number in range(catalogue)])
        # Squaring makes some items far more popular than others.
        self.item_ids = ids[(rng.random(requests * items) ** 2 * catalogue).astype(np.int64)]
        rows = np.arange(requests * items)
        seen_ts = self.request_ts[rows // items] + rng.integers(100, 60_000, len(rows))
        clicked = rows[rng.random(len(rows)) < 0.1]
        click_ts = seen_ts[clicked] + rng.integers(100, 120_000, len(clicked))
        played = np.repeat(np.flatnonzero(rng.random(len(clicked)) < 0.8), 3)
        step = np.tile([0, 1, 2], len(played) // 3)
        play_ms = step * 30_000
        self.logs = {
            "impressions": (rows, seen_ts, {}),
            "clicks": (clicked, click_ts, {}),
            "plays": (
                clicked[played],
                click_ts[played] + play_ms,
                {
                    "play_ms": play_ms,
                    "play_ms_delta": np.minimum(step, 1) * 30_000,
                    "duration_ms": np.full(len(played), 180_000),
                    "converted": step == 1,
                },
            ),
        }

    def batches(self, event: str, size: int) -> Iterator[LabelBatch]:
        """The event's records in event-time order."""
        rows, ts, fields = self.logs[event]
        order = np.argsort(ts, kind="stable")
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            at = rows[chosen]
            yield LabelBatch(
                event,
                ts[chosen],
                np.arange(start, start + len(chosen)),
                (at % self.items).astype(np.int32),
                pa.array(self.request_ids[at // self.items]),
                pa.array(self.item_ids[at]),
                {name: column[chosen] for name, column in fields.items()},
            )

    def block(self, start: int, end: int) -> SnapshotBlock:
        """Snapshots ``start:end``."""
        rows = np.arange(start * self.items, end * self.items)
        return SnapshotBlock(
            self.request_ids[start:end].tolist(),
            self.request_ts[start:end],
            np.arange(end - start + 1) * self.items,
            pa.array(self.item_ids[rows]),
            (rows % self.items).astype(np.int32),
        )


def main() -> None:
    """Run once and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--impressions", type=int, default=3_000_000)
    parser.add_argument("--per-s", type=int, default=500, help="impressions a second, event time")
    parser.add_argument("--items", type=int, default=10, help="items shown by one request")
    parser.add_argument("--catalogue", type=int, default=100_000, help="distinct items")
    parser.add_argument("--batch", type=int, default=10_000, help="label rows of one batch")
    parser.add_argument("--block", type=int, default=1_000, help="snapshots of one block")
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()

    requests = asked.impressions // asked.items
    world = World(requests, asked.items, asked.catalogue, asked.per_s, asked.seed)
    feeds = {event: list(world.batches(event, asked.batch)) for event in world.logs}
    blocks = [
        world.block(start, min(start + asked.block, requests))
        for start in range(0, requests, asked.block)
    ]
    memory = LabelMemory(STREAM, EVENTS)
    horizon_ms = STREAM.horizon_ms(lateness_ms=300_000)
    spent = dict.fromkeys(("add", "join", "evict"), 0.0)
    peak_bytes, peak_rows = 0, 1
    checksums = {name: hashlib.sha256() for name in label_schema(STREAM).names}
    for block in blocks:
        final_ts = int(block.request_ts_ms[-1]) + horizon_ms
        for feed in feeds.values():
            while feed and feed[0].ts_ms[0] <= final_ts:
                batch = feed.pop(0)
                began = time.process_time()
                memory.add(batch)
                spent["add"] += time.process_time() - began
        if memory.nbytes > peak_bytes:
            peak_bytes, peak_rows = memory.nbytes, memory.rows
        began = time.process_time()
        joined = join(memory, block)
        spent["join"] += time.process_time() - began
        began = time.process_time()
        memory.evict(int(block.request_ts_ms[-1]) - 65_000)
        spent["evict"] += time.process_time() - began
        for name, column in joined.columns.items():
            checksums[name].update(column.fill_null(0).cast(pa.int64()).to_numpy().tobytes())
    rows = sum(len(log[0]) for log in world.logs.values())
    seconds = sum(spent.values())
    print(f"{rows:,} label rows, {requests * asked.items:,} snapshot rows in {len(blocks)} blocks")
    print(
        f"{rows / seconds:,.0f} label rows/s in all; µs a label row: "
        + ", ".join(f"{part} {took / rows * 1e6:.3f}" for part, took in spent.items())
    )
    print(f"{peak_bytes / peak_rows:.1f} bytes a waiting label at {peak_rows:,} waiting")
    checksum = hashlib.sha256(b"".join(column.digest() for column in checksums.values()))
    print(f"checksum {checksum.hexdigest()[:16]}")


if __name__ == "__main__":
    main()
