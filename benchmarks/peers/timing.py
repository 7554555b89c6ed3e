"""How long something takes that many do at once; imports nothing, for peers use it too."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def timed(do: Callable[[], object], clients: int, seconds: float) -> tuple[list[float], float]:
    """Have so many threads do it again and again.

    Returns:
        Milliseconds of each time, and how many seconds all of it lasted.

    Raises:
        Exception: what it raised.
    """
    took_ms: list[float] = []
    end_s = time.perf_counter() + seconds

    def ask() -> None:
        while (began_s := time.perf_counter()) < end_s:
            do()
            took_ms.append((time.perf_counter() - began_s) * 1e3)

    with ThreadPoolExecutor(clients) as threads:
        began_s = time.perf_counter()
        for one in [threads.submit(ask) for _ in range(clients)]:
            one.result()
        return took_ms, time.perf_counter() - began_s
