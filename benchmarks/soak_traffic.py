"""What the soak sends: requests, their events and snapshots, whose ids never stop being new.

Items, queries and users are alive for a few minutes each, a request's id is new each time. Values
are written as text, not by an encoder: one core also runs everything that is being watched.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import NamedTuple

import msgspec
import numpy as np

from benchmarks.soak_app import app
from tenuto.features.matrix import Matrix, Stamp
from tenuto.features.progress import PROGRESS_DTYPE
from tenuto.features.reader import Request
from tenuto.features.rules import TimeRules
from tenuto.snapshot import record

SHOWN = 10
# Ten impressions, a click, and for every second click the three reports of a play.
EVENTS_A_REQUEST = SHOWN + 1 + 1.5
# Of an item or a query: how long it is alive, and how many are at once.
LIFE_S = 120.0
ITEMS, QUERIES = 20_000, 5_000
# Requests of one user, one after the other.
VISIT = 5
CONVERTED_S, ENDED_S = 30, 45


class Sent(NamedTuple):
    """A record: topic, when it is due (epoch ms), key and value."""

    topic: str
    due_ms: int
    key: bytes
    value: bytes


class Traffic:
    """Makes requests; time is passed in.

    Args:
        start_ms: epoch ms; ids are new from there on.
        seed: of what is shown.
    """

    def __init__(self, start_ms: int, seed: int = 1) -> None:
        self._start_ms = start_ms
        self._rnd = random.Random(seed)
        self._number = 0
        self._snapshot = _example()

    def request(self, now_ms: int) -> list[Sent]:
        """A request of now: its snapshot, and the events that are due in the next minute."""
        number, rnd = self._number, self._rnd
        self._number += 1
        request_id = f"{number * 2_654_435_761 % 2**32:08x}-{self._start_ms:x}-{number:x}"
        key = request_id.encode()
        query = self._alive("query words", QUERIES, now_ms)
        items = list(dict.fromkeys(self._alive("item", ITEMS, now_ms) for _ in range(SHOWN)))
        user = f"user-{self._start_ms:x}-{number // VISIT:x}"
        head = f'{{"request_id":"{request_id}","user_id":"{user}","query":"{query}","item_id":"'
        sent = []

        def event(topic: str, at: int, after_ms: int, more: str = "") -> None:
            ts = now_ms + after_ms
            text = f'{head}{items[at]}","position":{at},"ts":{ts}{more}}}'
            sent.append(Sent(topic, ts, key, text.encode()))

        snapshot = msgspec.structs.replace(
            self._snapshot, request_id=request_id, user_id=user, query=query, items=items,
            values=self._snapshot.values[: len(items) * 4 * len(self._snapshot.columns)],
            states=self._snapshot.states[: len(items) * len(self._snapshot.columns)],
            request_ts=now_ms, as_of=now_ms,
        )  # fmt: skip
        sent.append(Sent("snapshots", now_ms, key, record.encode(snapshot)))
        for at in range(len(items)):
            event("impressions", at, 200 + at)
        chosen = rnd.randrange(len(items))
        event("clicks", chosen, 2_000)
        if number % 2:
            for after_s, told in ((0, '"first":true'), (CONVERTED_S, '"converted":true'),
                                  (ENDED_S, '"finished":true')):  # fmt: skip
                event(
                    "plays", chosen, 2_500 + 1_000 * after_s,
                    f',"started_ts":{now_ms + 2_500},"play_ms":{1_000 * after_s}'
                    f',"play_ms_delta":1000,"duration_ms":{1_000 * ENDED_S},{told}',
                )  # fmt: skip
        return sent

    def candidates(self, now_ms: int, count: int) -> list[str]:
        """Items that a ranker would ask for now."""
        return [self._alive("item", ITEMS, now_ms) for _ in range(count)]

    def _alive(self, kind: str, at_once: int, now_ms: int) -> str:
        """An id of those alive now: the newest are asked for most."""
        newest = self._start_ms // 1_000 + int((now_ms - self._start_ms) / 1e3 / LIFE_S * at_once)
        return f"{kind} {newest - int(at_once * self._rnd.random() ** 3)}"


class Due:
    """Records that wait for their moment, by the second."""

    def __init__(self) -> None:
        self._seconds: defaultdict[int, list[Sent]] = defaultdict(list)

    def add(self, records: list[Sent]) -> None:
        for one in records:
            self._seconds[one.due_ms // 1_000].append(one)

    def until(self, now_ms: int) -> list[Sent]:
        """The records of all seconds that are over."""
        over = sorted(second for second in self._seconds if second < now_ms // 1_000)
        return [one for second in over for one in self._seconds.pop(second)]


def _example() -> record.Snapshot:
    """A snapshot of as many items as are shown, of the application's columns."""
    features = app.feature_set(TimeRules())
    shape = SHOWN, len(features.columns)
    values = np.random.default_rng(1).random(shape, np.float32)
    topics = features.layout.topics
    stamp = Stamp(tuple(topics), np.zeros((len(topics), 1), PROGRESS_DTYPE))
    matrix = Matrix(
        [f"i{at}" for at in range(SHOWN)], features.columns, values, np.zeros(shape, np.uint8),
        0, stamp, features.layout.digest, {}, "u", "q",
    )  # fmt: skip
    return record.of(Request("r", "u", "q", 0), matrix, scores={"score": np.zeros(SHOWN)})
