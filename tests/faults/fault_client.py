"""``fault_client.py APP PREFIX``: a serving tier and its users, until SIGTERM.

It prints a line when it has captured its first request.

Reads, captures and sends events as fast as a small site does; a request whose read is refused is
answered without. What it has not handed over when it is killed was never there.
"""

from __future__ import annotations

import contextlib
import heapq
import random
import signal
import sys
import time
from typing import Any

import tenuto
from tenuto.features.client import StoreUnavailableError
from tenuto.features.deadline import DeadlineExceededError
from tenuto.streams.outbox import SendError

SERVES = "serving"
_EVERY_S = 0.04


def main() -> None:
    """Serve until told to stop, then hand over what is left."""
    app, prefix = sys.argv[1:]
    rnd = random.Random(prefix)
    stopping = [False]
    signal.signal(signal.SIGTERM, lambda *_: stopping.__setitem__(0, True))
    client = tenuto.connect(app)
    later: list[tuple[float, int, str, dict[str, Any]]] = []
    number, served = 0, False
    while not stopping[0]:
        number += 1
        if _serve(client, rnd, f"{prefix}{number}", later) and not served:
            served = True
            print(SERVES, flush=True)
        while later and later[0][0] <= time.time():
            _, _, event, fields = heapq.heappop(later)
            try:
                client.send(event, {**fields, "ts": time.time_ns() // 1_000_000})
            except SendError:
                continue
        time.sleep(_EVERY_S)
    with contextlib.suppress(SendError, TimeoutError):
        client.flush()
    client.close()


def _serve(
    client: Any, rnd: random.Random, request_id: str, later: list[tuple[float, int, str, Any]]
) -> bool:
    request = tenuto.Request(
        request_id, f"u{rnd.randrange(9)}", f"q{rnd.randrange(4)}", time.time_ns() // 1_000_000
    )
    candidates = [f"i{n}" for n in rnd.sample(range(40), 8)]
    try:
        matrix = client.read(request, candidates, timeout_ms=200)
    except (StoreUnavailableError, DeadlineExceededError):
        return False
    shown = candidates[:5]
    client.capture(request, shown=shown, matrix=matrix, policy="test")
    for position, item in enumerate(shown):
        fields = {
            "request_id": request_id, "user_id": request.user_id, "query": request.query,
            "item_id": item, "position": position,
        }  # fmt: skip
        if rnd.random() < 0.8:
            heapq.heappush(later, (time.time() + rnd.random(), len(later), "impressions", fields))
        for _ in range(rnd.choice([0, 0, 0, 1, 2])):
            at_s = time.time() + 3.5 * rnd.random()
            heapq.heappush(later, (at_s, rnd.randrange(1 << 40), "clicks", fields))
    return True


if __name__ == "__main__":
    main()
