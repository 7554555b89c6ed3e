"""Plain Faust: a hopping table per key, state in memory and a changelog topic."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import faust

sys.path.insert(0, str(Path(__file__).parents[1]))

from seen import Seen


class Impression(faust.Record, serializer="json"):
    """The fields that are counted."""

    item_id: str
    ts: int


def main() -> None:
    asked = json.loads(sys.argv[1])
    seen = Seen(asked["keys"])
    with tempfile.TemporaryDirectory() as folder:
        app = faust.App(
            asked["group"],
            broker=f"kafka://{asked['bootstrap']}",
            datadir=folder,
            topic_partitions=1,
            web_enabled=False,
            stream_buffer_maxsize=4096,
        )
        topic = app.topic(asked["topic"], value_type=Impression)
        table = app.Table("counts", default=int, partitions=1)
        hops = table.hopping(asked["size_ms"] / 1000, asked["hop_ms"] / 1000, expires=10**9)
        counts = hops.relative_to_stream()

        @app.agent(topic)
        async def count(impressions):  # type: ignore[no-untyped-def]
            async for impression in impressions:
                counts[impression.item_id] += 1
                seen.event()
                if seen.events == asked["events"]:
                    finished.set()

        async def run() -> None:
            worker = asyncio.ensure_future(app.start())
            await finished.wait()
            await app.stop()
            worker.cancel()

        finished = asyncio.Event()
        asyncio.get_event_loop().run_until_complete(run())
        for (key, (start, _)), value in table.items():
            seen.window(key, round(start * 1000), value)
    seen.tell()


main()
