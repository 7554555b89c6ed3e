"""The simulated world: users with tastes, queries, and items that are born, trend and fade.

Everything here is a function of the settings, by hashing and not by drawing in turn, so that it
does not depend on what was asked before. What users do with a slate is in
:mod:`tenuto.drive.simulator`.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HOUR_MS = 3_600_000
START_MS = 1_704_067_200_000
"""2024-01-01T00:00:00Z, where simulated time begins."""

BURSTS = 10
_WORDS = struct.Struct("<16I")


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """The size and pace of a simulated world.

    Attributes:
        seed: another seed is another world.
        users: how many there are; some ask far more often than others.
        items: how many are alive at any time.
        queries: how many there are besides the feed (query "").
        topics: how many kinds of items there are.
        item_lifetime_ms: from an item's publication to its last retrieval.
        start_ms: where the run begins, epoch ms.
        duration_ms: how long it is in event time.
        requests_per_s: requests a second of event time.
        preroll_ms: how much random traffic there is before the start.
        preroll_requests_per_s: its requests a second of event time.

    Raises:
        ValueError: a setting that no world can have, by name.
    """

    seed: int = 0
    users: int = 2_000
    items: int = 1_000
    queries: int = 60
    topics: int = 20
    item_lifetime_ms: int = 24 * HOUR_MS
    start_ms: int = START_MS
    duration_ms: int = 8 * HOUR_MS
    requests_per_s: float = 5.0
    preroll_ms: int = 24 * HOUR_MS
    preroll_requests_per_s: float = 0.5

    def __post_init__(self) -> None:
        for name in ("users", "items", "queries", "topics", "item_lifetime_ms", "requests_per_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: {getattr(self, name)}: must be > 0")
        for name in ("duration_ms", "preroll_ms", "preroll_requests_per_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)}: must be ≥ 0")
        if self.items < 40 * self.topics:
            raise ValueError(f"items: {self.items}: must be ≥ 40 for each of {self.topics} topics")


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Candidates of one request in the order of their scores.

    Attributes:
        items: indices of items.
        scores: of the retrieval, higher first.
    """

    items: list[int]
    scores: list[float]


class World:
    """Who and what there is, and how well they suit each other at a time."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self.settings = settings
        seed = settings.seed
        spacing_ms = settings.item_lifetime_ms / settings.items
        born_from_ms = settings.start_ms - settings.preroll_ms - settings.item_lifetime_ms
        span_ms = settings.item_lifetime_ms + settings.preroll_ms + settings.duration_ms
        n = int(span_ms / spacing_ms) + 1
        births = (np.arange(n) + uniforms(seed, "born", n)) * spacing_ms
        self.born_ms: NDArray[np.int64] = births.astype(np.int64) + born_from_ms
        self._topic = (uniforms(seed, "topic", n) * settings.topics).astype(np.int64)
        self._fit = uniforms(seed, "fit", n)
        self._born_list: list[int] = self.born_ms.tolist()
        self._topic_list: list[int] = self._topic.tolist()
        self._hook: list[float] = (1.4 * uniforms(seed, "hook", n) - 0.7 + 0.5 * self._fit).tolist()
        self._depth: list[float] = (3.0 * uniforms(seed, "depth", n) - 1.5).tolist()
        lengths = 15_000 * 16.0 ** uniforms(seed, "length", n)
        self.length_ms: list[int] = lengths.astype(np.int64).tolist()
        tastes = 2.4 * uniforms(seed, "taste", settings.users * settings.topics) - 1.2
        self._taste: list[list[float]] = tastes.reshape(settings.users, settings.topics).tolist()
        self._favourites = np.argsort(-tastes.reshape(settings.users, -1), axis=1).tolist()
        self._bursts = self._all_bursts(n)
        self._pools: dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        self._pools_at = -1

    def topic_of_query(self, query: int) -> int:
        """What a query is about."""
        return query % self.settings.topics

    def favourite(self, user: int, rank: int) -> int:
        """The topic that the user likes best, second best, and so on."""
        return int(self._favourites[user][rank % self.settings.topics])

    def retrieve(self, topic: int, ts_ms: int, n: int, key: int) -> Retrieved:
        """The ``n`` best living items of a topic and its neighbour, with some noise of ``key``."""
        items, base = self._pool(topic, ts_ms)
        noise = _splitmix(np.uint64(key) ^ items.astype(np.uint64)) >> np.uint64(11)
        scores = np.round(base + 0.35 * (noise.astype(np.float64) * 2.0**-53), 4)
        best = np.lexsort((items, -scores))[:n]
        return Retrieved(items[best].tolist(), scores[best].tolist())

    def appeal(self, user: int, item: int, ts_ms: int) -> float:
        """Log-odds of a click by someone who looks at it: taste, the item, its trend and age."""
        age = (ts_ms - self._born_list[item]) / self.settings.item_lifetime_ms
        odds = self._taste[user][self._topic_list[item]] + self._hook[item] - 1.5 * age - 2.2
        return odds + self.trend(item, ts_ms)

    def trend(self, item: int, ts_ms: int) -> float:
        """What its bursts add at a time: each halves every 10 to 60 minutes."""
        added = 0.0
        for start_ms, height, half_life_ms in self._bursts[item]:
            if start_ms <= ts_ms:
                added += height * math.exp2((start_ms - ts_ms) / half_life_ms)
        return added

    def stamina(self, user: int, item: int) -> float:
        """Log-odds of a play to the end: nearly unrelated to what makes a click."""
        long = self.length_ms[item] / 240_000
        return 0.6 * self._taste[user][self._topic_list[item]] + self._depth[item] - 1.5 * long

    def _pool(self, topic: int, ts_ms: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Living items of the topic and the next as of the minute, and how well they match."""
        minute = ts_ms // 60_000
        if minute != self._pools_at:
            self._pools_at, self._pools = minute, {}
        pool = self._pools.get(topic)
        if pool is None:
            now_ms = minute * 60_000
            first, last = np.searchsorted(
                self.born_ms, (now_ms - self.settings.item_lifetime_ms, now_ms), side="right"
            )
            topics = self._topic[first:last]
            mine, next_ = topics == topic, topics == (topic + 1) % self.settings.topics
            items = first + np.flatnonzero(mine | next_)
            base = 0.5 * self._fit[items] + np.where(self._topic[items] == topic, 0.3, 0.0)
            pool = self._pools[topic] = items, base
        return pool

    def _all_bursts(self, n: int) -> list[list[tuple[int, float, float]]]:
        """Per item: start (epoch ms), height (log-odds) and half-life (ms); one often at birth."""
        seed = self.settings.seed
        happens, when, height, half_life = (
            uniforms(seed, f"burst {what}", n * BURSTS).reshape(n, BURSTS)
            for what in ("happens", "when", "height", "half-life")
        )
        starts = (np.arange(BURSTS) + when) / BURSTS * self.settings.item_lifetime_ms
        starts[:, 0] *= 0.25
        starts_ms = starts.astype(np.int64) + self.born_ms[:, None]
        heights, half_lives_ms = 1.0 + 2.5 * height, 600_000 * 6.0**half_life
        return [
            [
                (int(starts_ms[item, at]), float(heights[item, at]), float(half_lives_ms[item, at]))
                for at in np.flatnonzero(happens[item] < 0.5)
            ]
            for item in range(n)
        ]


def uniforms(seed: int, kind: str, n: int) -> NDArray[np.float64]:
    """``n`` hashes of (seed, kind, index) in [0, 1)."""
    digest = hashlib.blake2b(f"{seed}:{kind}".encode(), digest_size=8).digest()
    words = _splitmix(np.arange(n, dtype=np.uint64) + np.uint64(int.from_bytes(digest, "little")))
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draws(text: str) -> tuple[float, ...]:
    """Sixteen independent hashes of a text, each in (0, 1)."""
    words = _WORDS.unpack(hashlib.blake2b(text.encode()).digest())
    return tuple([(word + 0.5) * 2.0**-32 for word in words])


def _splitmix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
