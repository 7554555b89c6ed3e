"""Events at an even rate from a process of their own, stamped when they are sent.

``Pace(deployment, per_s)`` is a context manager: while it is open, the world's events arrive.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from types import TracebackType

import numpy as np
from aiokafka import AIOKafkaProducer

from benchmarks.deployment import ROOT, Deployment
from benchmarks.world import World, whole_batches
from tenuto.streams.partitions import partition_of

_TICK_S = 0.02
_LEAD_MS = 1_000
# So much is made before, and sent again and again.
_LAP_S = 15.0


class Pace:
    """So many events a second into a deployment's topics.

    Args:
        deployment: whose topics.
        per_s: records a second.
    """

    def __init__(self, deployment: Deployment, per_s: float) -> None:
        self.per_s = per_s
        asked = {
            "bootstrap": deployment.stack.bootstrap,
            "partitions": deployment.partitions,
            "per_s": per_s,
            "topics": deployment.names.events(deployment.platform.events),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.pace", json.dumps(asked)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | deployment.env, cwd=ROOT,
        )  # fmt: skip

    def __enter__(self) -> Pace:
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        if self._process.stdout.readline().strip() != "ready":
            raise RuntimeError("the producer of the paced events ended")
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        assert self._process.stdin is not None
        is_sending = self._process.poll() is None
        self._process.stdin.close()
        self._process.wait(30)
        if kind is None and (self._process.returncode or not is_sending):
            raise RuntimeError("the producer of the paced events ended before its time")


async def _send(asked: dict[str, object], world: World) -> None:
    log, topics, partitions = world.log(), asked["topics"], int(str(asked["partitions"]))
    assert isinstance(topics, dict)
    # One list in order of time, of which each tick sends a slice. Plays end after the lap's last
    # impression: they are sent within the lap, or its rate would not be even. An event says that
    # it happens when it is sent: what claims to be of the future is refused.
    lap_ms = round(1_000 * _LAP_S)
    rows = sorted(
        (
            ((ts - world.start_ms) % lap_ms, topics[name], key.encode(), *_around_ts(value))
            for name, records in log.records.items() if name in topics
            for ts, key, value in records
        ),
        key=lambda row: row[0],
    )  # fmt: skip
    times = np.array([row[0] for row in rows])
    homes = partition_of([row[2].decode() for row in rows], partitions).tolist()
    # A look at all of these objects takes a second, in which nothing would be sent.
    gc.freeze()
    async with AIOKafkaProducer(
        bootstrap_servers=asked["bootstrap"], linger_ms=0, max_batch_size=1_000_000
    ) as producer:
        print("ready", flush=True)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, sys.stdin.readline)
        # Its end is that of the benchmark too, however that ends.
        over = loop.run_in_executor(None, sys.stdin.read)
        began_s, at = time.time(), 0
        while not over.done():
            now_s = time.time()
            if at == len(rows):
                began_s, at = began_s + lap_ms / 1_000, 0
            end = int(np.searchsorted(times, (now_s - began_s) * 1_000, "right"))
            stamp_ms, due = int(now_s * 1_000), defaultdict(list)
            for number in range(at, end):
                _, topic, key, head, tail = rows[number]
                due[topic, homes[number]].append(
                    (stamp_ms, key, b"%b%d%b" % (head, stamp_ms, tail))
                )
            for (topic, partition), some in due.items():
                for batch in whole_batches(producer, some):
                    await producer.send_batch(batch, topic, partition=partition)
            at = end
            await asyncio.sleep(max(0.0, _TICK_S - (time.time() - now_s)))


def _around_ts(value: bytes) -> tuple[bytes, bytes]:
    """A record's JSON before and after the number that is its event time."""
    head, ts, tail = value.partition(b'"ts":')
    return head + ts, tail.lstrip(b"0123456789")


def main() -> None:
    """Make the events, say that they are ready, and send them once told to."""
    asked = json.loads(sys.argv[1])
    per_s = float(asked["per_s"])
    world = World(
        round(per_s * _LAP_S),
        per_s=round(per_s),
        start_ms=int(time.time() * 1_000) + _LEAD_MS,
    )
    asyncio.run(_send(asked, world))


if __name__ == "__main__":
    main()
