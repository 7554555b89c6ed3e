"""Quix Streams: hopping counts per key from Kafka, exactly once, in RocksDB and a changelog."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from quixstreams import Application

sys.path.insert(0, str(Path(__file__).parents[1]))

from seen import Seen


def main() -> None:
    asked = json.loads(sys.argv[1])
    seen = Seen(asked["keys"])
    with tempfile.TemporaryDirectory() as folder:
        app = Application(
            broker_address=asked["bootstrap"],
            consumer_group=asked["group"],
            auto_offset_reset="earliest",
            processing_guarantee="exactly-once",
            state_dir=folder,
            loglevel="WARNING",
        )
        topic = app.topic(
            asked["topic"],
            key_deserializer="str",
            value_deserializer="json",
            timestamp_extractor=lambda value, headers, timestamp, kind: value["ts"],
        )
        counts = (
            app.dataframe(topic)
            .update(lambda value: seen.event())
            .hopping_window(asked["size_ms"], asked["hop_ms"], grace_ms=0)
            .count()
            .final(closing_strategy="partition")
        )
        counts.update(
            lambda value, key, timestamp, headers: seen.window(key, value["start"], value["value"]),
            metadata=True,
        )
        app.run(count=asked["events"], timeout=10.0, collect=False)
    seen.tell()


main()
