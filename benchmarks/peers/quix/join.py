"""Quix Streams: a left interval join of shown items with their clicks, exactly once."""

from __future__ import annotations

import json
import sys
import tempfile
import time

from quixstreams import Application


def main() -> None:
    asked = json.loads(sys.argv[1])
    first_s = last_s = 0.0
    clicked: set[str] = set()

    def came(value: object) -> None:
        nonlocal first_s, last_s
        last_s = time.perf_counter()
        first_s = first_s or last_s

    def joined(value: dict[str, object]) -> None:
        nonlocal last_s
        last_s = time.perf_counter()
        if value.get("clicked_ts"):
            clicked.add(str(value["k"]))

    with tempfile.TemporaryDirectory() as folder:
        app = Application(
            broker_address=asked["bootstrap"], consumer_group=asked["group"],
            auto_offset_reset="earliest", processing_guarantee="exactly-once",
            state_dir=folder, loglevel="WARNING",
        )  # fmt: skip
        frames = [
            app.dataframe(app.topic(asked[name], key_deserializer="str", value_deserializer="json"))
            for name in ("shown", "clicked")
        ]
        shown, clicks = (frame.update(came) for frame in frames)
        rows = shown.join_interval(
            clicks, how="left", on_merge="keep-left", forward_ms=asked["window_ms"],
            grace_ms=asked["window_ms"],
        )  # fmt: skip
        rows.update(joined)
        app.run(count=asked["impressions"] + asked["clicks"], timeout=10.0, collect=False)
    print(json.dumps({"clicked": len(clicked), "seconds": last_s - first_s}))


main()
