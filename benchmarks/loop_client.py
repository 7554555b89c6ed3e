"""A serving tier and its users at an even rate: ``python -m benchmarks.loop_client JSON``.

Each request is read, scored once there is a checkpoint, captured, and followed by its events. It
tells how many it served, how long each took from the read to the capture, and what it spent.
"""

from __future__ import annotations

import json
import random
import sys
import time

import numpy as np

import tenuto
from benchmarks.soak_app import app
from tenuto.settings import load
from tenuto.trainer.checkpoints.errors import NoRankerError
from tenuto.trainer.checkpoints.feed import CheckpointFeed

_ITEMS, _USERS, _QUERIES = 20_000, 50_000, 5_000


def main() -> None:
    """Serve for as long as asked."""
    asked = json.loads(sys.argv[1])
    settings = load().settings
    rnd = random.Random(time.time_ns())
    took_ms: list[float] = []
    scored = 0
    url = f"kafka://{settings.kafka.bootstrap}/{asked['topic']}"
    feed = CheckpointFeed(
        url, model=asked["model"], store=settings.trainer.store, columns=None, every_s=1.0
    )
    with tenuto.connect(app, settings=settings) as client:
        began_s, run_id = time.perf_counter(), time.time_ns()
        spent_s = time.process_time()
        while (now_s := time.perf_counter() - began_s) < asked["seconds"]:
            if len(took_ms) > now_s * asked["per_s"]:
                time.sleep(0.0005)
                continue
            at_s, now_ms = time.perf_counter(), time.time_ns() // 1_000_000
            request = tenuto.Request(
                f"{run_id:x}-{len(took_ms)}", f"user-{rnd.randrange(_USERS)}",
                f"query {rnd.randrange(_QUERIES)}", now_ms,
            )  # fmt: skip
            numbers = {int(_ITEMS * rnd.random() ** 3) for _ in range(asked["candidates"])}
            candidates = [f"item-{number}" for number in numbers]
            matrix = client.read(request, candidates, timeout_ms=1_000)
            shown, scores = candidates[: asked["shown"]], None
            try:
                scores = feed.ranker.score(matrix)
                best = np.argsort(-scores["ctr"])[: asked["shown"]]
                shown = [candidates[at] for at in best.tolist()]
                scored += 1
            except NoRankerError:
                pass
            client.capture(request, shown=shown, matrix=matrix, scores=scores)
            took_ms.append((time.perf_counter() - at_s) * 1e3)
            base = {"request_id": request.request_id, "user_id": request.user_id,
                    "query": request.query}  # fmt: skip
            rows = [
                {**base, "item_id": item, "position": at, "ts": now_ms}
                for at, item in enumerate(shown)
            ]
            client.send_many("impressions", rows)
            if rnd.random() < 0.5:
                client.send("clicks", rnd.choice(rows))
                client.send("plays", {
                    **rnd.choice(rows), "started_ts": now_ms, "play_ms": 0, "play_ms_delta": 0,
                    "duration_ms": 60_000, "first": True,
                })  # fmt: skip
        seconds = time.perf_counter() - began_s
        client.flush()
    feed.close()
    print(json.dumps({
        "requests": len(took_ms), "seconds": seconds, "scored": scored,
        "took_ms": [round(ms, 3) for ms in took_ms], "cpu_s": time.process_time() - spent_s,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
