"""What a peer has counted, told in one line; imports nothing, for it runs in every environment."""

from __future__ import annotations

import json
import time
from collections import defaultdict


class Seen:
    """Counts per window as they come, and the time between the first and the last event.

    Args:
        keys: of these every count is told.
    """

    def __init__(self, keys: list[str]) -> None:
        self.keys = set(keys)
        self.windows: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        self.counts: dict[str, dict[int, int]] = {key: {} for key in keys}
        self.events = 0
        self._first_s = self._last_s = 0.0

    def event(self, number: int = 1) -> None:
        """So many events were taken."""
        self._last_s = time.perf_counter()
        if not self.events:
            self._first_s = self._last_s
        self.events += number

    def window(self, key: str, start_ms: int, count: int) -> None:
        """The final count of a key in a window."""
        of_window = self.windows[start_ms]
        of_window[0] += 1
        of_window[1] += count
        if key in self.keys:
            self.counts[key][start_ms] = count

    def tell(self) -> None:
        """Print it as the last line."""
        print(json.dumps({
            "events": self.events, "seconds": self._last_s - self._first_s,
            "windows": self.windows, "counts": self.counts,
        }))  # fmt: skip
