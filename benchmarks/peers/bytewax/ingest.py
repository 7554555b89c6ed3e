"""Bytewax: sliding counts per key from Kafka, state in the process's memory, no recovery store."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import orjson
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

sys.path.insert(0, str(Path(__file__).parents[1]))

from seen import Seen

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Told(DynamicSink):
    """Takes the counts of closed windows."""

    def __init__(self, seen: Seen, hop_ms: int) -> None:
        self.seen, self.hop_ms = seen, hop_ms

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Any:
        return _Partition(self)


class _Partition(StatelessSinkPartition):
    def __init__(self, told: Told) -> None:
        self.told = told

    def write_batch(self, items: list[Any]) -> None:
        for key, (window, count) in items:
            self.told.seen.window(key, window * self.told.hop_ms, count)


def main() -> None:
    asked = json.loads(sys.argv[1])
    seen = Seen(asked["keys"])

    def parse(message: Any) -> tuple[str, int]:
        seen.event()
        return message.key.decode(), orjson.loads(message.value)["ts"]

    flow = Dataflow("counts")
    source = KafkaSource([asked["bootstrap"]], [asked["topic"]], tail=False)
    keyed = op.map("parse", op.input("in", flow, source), parse)
    # A key's events are in order; what waits is not needed, only that system time closes nothing.
    clock = win.EventClock(
        lambda pair: EPOCH + timedelta(milliseconds=pair[1]), timedelta(seconds=10)
    )
    hops = win.SlidingWindower(
        timedelta(milliseconds=asked["size_ms"]), timedelta(milliseconds=asked["hop_ms"]), EPOCH
    )
    counts = win.count_window("count", keyed, clock, hops, lambda pair: pair[0])
    op.output("out", counts.down, Told(seen, asked["hop_ms"]))
    run_main(flow)
    seen.tell()


main()
