"""Reading a worker's Prometheus metrics, for the live table."""

from __future__ import annotations

import time
import urllib.request
from collections import defaultdict

from prometheus_client.parser import text_string_to_metric_families

_EVERY_S = 1.0


class Scrape:
    """Counters of one worker, at most a while old; of a worker that is away, the last ones.

    Args:
        url: of its metrics.
        every_s: how old they may be.
    """

    def __init__(self, url: str, every_s: float = _EVERY_S) -> None:
        self._url = url
        self._every_s = every_s
        self._totals: dict[str, float] = {}
        self._scraped_s = 0.0

    def total(self, metric: str) -> float:
        """A metric's sum over its labels; 0 where it is not known."""
        if time.monotonic() - self._scraped_s >= self._every_s:
            self._scraped_s = time.monotonic()
            self._scrape()
        return self._totals.get(metric, 0.0)

    def _scrape(self) -> None:
        try:
            with urllib.request.urlopen(self._url, timeout=0.5) as answer:
                text = answer.read().decode()
        except OSError:
            # Not up yet, or just killed: the table shows what it knew.
            return
        totals: dict[str, float] = defaultdict(float)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                totals[sample.name] += sample.value
        self._totals = totals
