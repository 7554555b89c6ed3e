"""A stream worker for tests, run as a process of its own: notes each batch in a file, durably.

``python batch_worker.py CONFIG`` where CONFIG is JSON; ``Worker`` in ``test_batches.py`` writes it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tenuto.streams import fetching
from tenuto.streams.batches import TP, Batch
from tenuto.streams.transport import install_batches
from tenuto.streams.worker import faust_app, run

config: dict[str, Any] = json.loads(sys.argv[1])
fetching.MAX_FETCH_BYTES = config.get("max_fetch_bytes", fetching.MAX_FETCH_BYTES)
logging.basicConfig(level=config.get("log", "WARNING"), format="%(asctime)s %(name)s %(message)s")
notes = os.open(config["notes"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def note(kind: str, batch: Batch | None = None, **more: Any) -> None:
    """One line, by one write: there as a whole or not at all."""
    line: dict[str, Any] = {"kind": kind, "at_s": time.monotonic(), **more}
    if batch is not None:
        line |= {
            "partition": batch.partition,
            "start": batch.start,
            "end": batch.end,
            "missed": batch.missed,
            "generation": batch.generation,
            "offsets": batch.offsets.tolist(),
            "values": [(value or b"").decode() for value in batch.values],
        }
    os.write(notes, json.dumps(line).encode() + b"\n")


def applied() -> dict[TP, int]:
    lines = [json.loads(line) for line in Path(config["notes"]).read_text().splitlines()]
    return {
        TP(config["topic"], line["partition"]): line["end"]
        for line in lines
        if line["kind"] == "applied"
    }


class Positions:
    """Each partition's position is the end of its last applied batch, as the notes have it."""

    async def start_positions(self, partitions: set[TP]) -> Mapping[TP, int]:
        note("assigned", partitions=sorted(tp.partition for tp in partitions))
        if "fail_positions" in config:
            raise ConnectionError("the store is away")
        if config.get("positions") == "committed":
            return {}
        positions = {tp: config.get("from", 0) for tp in partitions}
        if "thinks_s" in config:
            await asyncio.sleep(config["thinks_s"])
            note("answered")
            return positions
        return positions | applied()

    async def on_revoked(self, partitions: set[TP]) -> None:
        note("revoked", partitions=sorted(tp.partition for tp in partitions))


app = faust_app(
    config["group"],
    brokers=config["brokers"],
    max_poll_records=config.get("max_poll_records", 100),
    commit_interval_s=config.get("commit_interval_s", 0.2),
    session_timeout_s=config.get("session_timeout_s", 6),
    rebalance_timeout_s=4,
    consumer_group_instance_id=config.get("instance"),
)
delivery = install_batches(app, Positions())
topic = app.topic(config["topic"])


async def apply(stream: Any) -> None:
    async for batch in stream:
        await asyncio.sleep(config.get("sleep_s", 0))
        note("applied", batch)


async def hold(stream: Any) -> None:
    """Take ``hold_s`` over the batch that holds ``at``; keep it for good without ``hold_s``."""
    async for batch in stream:
        if config["at"] in batch.offsets:
            note("holding", batch)
            await asyncio.sleep(config.get("hold_s", 3600))
        note("applied", batch)


async def fail(stream: Any) -> None:
    async for batch in stream:
        if config["at"] in batch.offsets:
            raise ArithmeticError(f"record {config['at']} is too much")
        note("applied", batch)


async def jump(stream: Any) -> None:
    """Seek ``to`` once, from within the batch that holds ``at``, when the buffer is long full."""
    jumped = False
    async for batch in stream:
        if not delivery.is_current(batch):
            note("stale", batch)
            continue
        if not jumped and config["at"] in batch.offsets:
            jumped = True
            await asyncio.sleep(1)
            note("jump", batch, buffered=stream.channel.queue.qsize())
            await delivery.seek(batch.tp, config["to"])
            continue
        note("applied", batch)


async def again(stream: Any) -> None:
    """Have the positions asked once more while records flow, as a rebalance's late end does."""
    asked: asyncio.Task[None] | None = None
    async for batch in stream:
        if not delivery.is_current(batch):
            note("stale", batch)
            continue
        note("applied", batch)
        if asked is None and config["at"] in batch.offsets:
            asked = asyncio.create_task(app.consumer.perform_seek())


async def fast(stream: Any) -> None:
    async for batch in stream:
        note("fast", batch)


async def pause(stream: Any) -> None:
    """Pause the partition of the first batch, and resume it when another has brought ``at``."""
    paused: set[TP] = set()
    async for batch in stream:
        note("applied", batch)
        if not paused:
            paused = {batch.tp}
            delivery.pause(paused)
            note("paused", batch)
        elif config["at"] in batch.offsets and batch.tp not in paused:
            note("resumed")
            delivery.resume(paused)


behaviours = {
    "apply": apply,
    "hold": hold,
    "fail": fail,
    "jump": jump,
    "again": again,
    "fast": fast,
    "pause": pause,
}
for name in config.get("agents", ["apply"]):
    app.agent(topic, name=name)(behaviours[name])

if __name__ == "__main__":
    run(app)
