"""Simulated traffic as the source of a run: who asks what and when, and what they do with a slate.

A click needs an item that is seen (it is within the depth scrolled to), examined (less likely the
lower it stands) and relevant. Each outcome is a hash of (seed, request, item, kind), so two rankers
that show the same item at the same place meet the same user.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tenuto.drive.slates import Policy, policy_of, shuffled
from tenuto.drive.source import EventRecord, Request, event_records
from tenuto.drive.world import SimulatorSettings, World, draws
from tenuto.features.events import Event
from tenuto.features.feature import Context
from tenuto.presets.video_events import clicks, impressions, likes, plays

RECALL_SCORE = Context("recall_score", "item", float)
PUBLISHED = Context("published_ts", "item", int)
CONTEXT = (RECALL_SCORE, PUBLISHED)
"""What the candidates of a simulated request bring with them."""
EVENTS = (impressions, clicks, plays, likes)
"""What users of the world send: an application that is simulated declares them."""

FEED_SHARE = 0.25
FEWEST_CANDIDATES, MOST_CANDIDATES = 20, 40


class SimulatedTraffic:
    """Requests at a steady rate over a span of the world; a :class:`~tenuto.drive.source.Source`.

    Args:
        world: who and what there is.
        start_ms: where the span begins, epoch ms.
        duration_ms: how long it is.
        requests_per_s: requests a second of event time.
        prefix: of its request ids.
        policy: who orders its slates.
    """

    def __init__(
        self,
        world: World,
        start_ms: int,
        duration_ms: int,
        requests_per_s: float,
        prefix: str,
        policy: Callable[[str], Policy] = policy_of,
    ) -> None:
        self.policy_of = policy
        self._world, self._seed = world, world.settings.seed
        self._span_start_ms, self._prefix = start_ms, prefix
        self._interval_ms = 1_000.0 / requests_per_s if requests_per_s else math.inf
        self._count = int(duration_ms / self._interval_ms)

    def __len__(self) -> int:
        """How many requests there are."""
        return self._count

    @property
    def start_ms(self) -> int:
        """Time of the first request, epoch ms; the start of the span when there is none."""
        return self._time_ms(0) if self._count else self._span_start_ms

    @property
    def end_ms(self) -> int:
        """Time of the last request, epoch ms; the start of the span when there is none."""
        return self._time_ms(self._count - 1) if self._count else self._span_start_ms

    def requests(self, start_ms: int, end_ms: int) -> list[Request]:
        """Requests with ``start_ms <= ts_ms < end_ms``, ordered by (ts_ms, request_id)."""
        first, last = self._first_at(start_ms), self._first_at(end_ms)
        return [self._request(index) for index in range(first, last)]

    def next_request_ms(self, from_ms: int) -> int | None:
        """Time of the first request at or after ``from_ms``; None when there is none."""
        index = self._first_at(from_ms)
        return self._time_ms(index) if index < self._count else None

    def shuffled(self, request: Request) -> list[int]:
        """The order of a shuffled slate: indices of all the candidates."""
        return shuffled(request.request_id, len(request.candidates), self._seed)

    def outcomes(self, request: Request, shown: Sequence[int]) -> list[EventRecord]:
        """Events caused by showing ``request.candidates[shown[0]]`` first, and so on, by time."""
        user = int(request.user_id[1:])
        about = draws(f"{self._seed}:slate:{request.request_id}")
        depth = 4 + int(9 * about[0])
        records: list[EventRecord] = []
        for position, candidate in enumerate(shown[:depth]):
            records += self._item_outcomes(request, user, request.candidates[candidate], position)
        records.sort(key=lambda record: record.ts_ms)
        return records

    def _item_outcomes(
        self, request: Request, user: int, item_id: str, position: int
    ) -> list[EventRecord]:
        """What comes of one item that was scrolled to."""
        world, item = self._world, int(item_id[1:])
        (
            looks,
            likes_it,
            lag,
            think,
            long_think,
            plays_it,
            start_lag,
            finishes,
            part,
            gives_like,
            autoplays,
            *_,
        ) = draws(f"{self._seed}:{request.request_id}:{item_id}")

        def records(event: Event, ts_ms: int, **own: int) -> list[EventRecord]:
            return event_records(
                event, ts_ms, request=request, item_id=item_id, position=position, own=own
            )

        seen_ms = request.ts_ms + 200 + 700 * position + int(500 * lag)
        found = records(impressions, seen_ms)
        relevant = likes_it < _probability(world.appeal(user, item, request.ts_ms))
        if looks < examination(position) and relevant:
            wait_ms = (30.0 if long_think < 0.04 else 1.0) * -5_000.0 * math.log(think)
            clicked_ms = seen_ms + 600 + int(wait_ms)
            found += records(clicks, clicked_ms)
            if plays_it >= 0.9:
                return found
            started_ms = clicked_ms + 300 + int(2_000 * start_lag)
        elif autoplays < 0.01:
            started_ms = seen_ms + 1_500
        else:
            return found
        length_ms = world.length_ms[item]
        to_the_end = finishes < _probability(world.stamina(user, item))
        play_ms = length_ms if to_the_end else max(500, int(length_ms * part * part))
        found += records(plays, started_ms, play_ms=play_ms, duration_ms=length_ms)
        if gives_like < (0.2 if to_the_end else 0.02):
            found += records(likes, started_ms + play_ms)
        return found

    def _request(self, index: int) -> Request:
        world, settings = self._world, self._world.settings
        ts_ms, drawn = self._time_ms(index), self._drawn(index)
        user = int(settings.users * drawn[1] * drawn[1])
        if drawn[2] < FEED_SHARE:
            query, topic = "", world.favourite(user, int(3 * drawn[3]))
        else:
            number = int(settings.queries * drawn[3] * drawn[3])
            query, topic = f"q{number:03d}", world.topic_of_query(number)
        n = FEWEST_CANDIDATES + int((MOST_CANDIDATES + 1 - FEWEST_CANDIDATES) * drawn[4])
        retrieved = world.retrieve(topic, ts_ms, n, key=int(drawn[5] * 2**32) << 20)
        return Request(
            request_id=f"{self._prefix}{index:08d}",
            user_id=f"u{user:06d}",
            query=query,
            ts_ms=ts_ms,
            candidates=[f"i{item:07d}" for item in retrieved.items],
            positions=None,
            context={
                RECALL_SCORE.name: retrieved.scores,
                PUBLISHED.name: [int(world.born_ms[item]) for item in retrieved.items],
            },
        )

    def _drawn(self, index: int) -> tuple[float, ...]:
        return draws(f"{self._seed}:request:{self._prefix}{index}")

    def _time_ms(self, index: int) -> int:
        """Somewhere within the ``index``-th interval, so that times never decrease."""
        return self._span_start_ms + int((index + self._drawn(index)[0]) * self._interval_ms)

    def _first_at(self, ts_ms: int) -> int:
        """The first request at or after a time; how many there are when there is none."""
        if not self._count or ts_ms <= self._span_start_ms:
            return 0
        index = min(int((ts_ms - self._span_start_ms) / self._interval_ms), self._count)
        while index > 0 and self._time_ms(index - 1) >= ts_ms:
            index -= 1
        while index < self._count and self._time_ms(index) < ts_ms:
            index += 1
        return index


class Simulator(SimulatedTraffic):
    """A seeded world's traffic from its start on.

    Attributes:
        settings: its size and pace.
        preroll: the same world before the start, all slates shuffled; a source of its own.
    """

    def __init__(self, settings: SimulatorSettings | None = None) -> None:
        self.settings = settings or SimulatorSettings()
        one, world = self.settings, World(self.settings)
        super().__init__(world, one.start_ms, one.duration_ms, one.requests_per_s, "r")
        self.preroll = SimulatedTraffic(
            world,
            one.start_ms - one.preroll_ms,
            one.preroll_ms,
            one.preroll_requests_per_s,
            "p",
            policy=lambda _request_id: "shuffle",
        )


def examination(position: int) -> float:
    """Probability that an item scrolled to at this 0-based position is looked at."""
    return 1.0 / (1.0 + 0.3 * position)


def _probability(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-log_odds))
