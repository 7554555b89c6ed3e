"""Any features over any events, through aggregation, Redis and the reader, against the oracle."""

from __future__ import annotations

import random

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_store_and_reader import START_MS, World, event

from tenuto.features.entities import Counter, Entity
from tenuto.features.feature import Feature
from tenuto.features.moments import age
from tenuto.features.reader import Request
from tenuto.features.values import coec, mean, rate, sums, wilson
from tenuto.presets import video

ENTITIES = [video.item, video.user, video.query, video.query_item]
LENGTHS_S = [24, 60, 90, 300, 1_800, 3_600, 7_200, 86_400, 259_200, 604_800]


@st.composite
def features(draw: st.DrawFn) -> list[Feature]:
    """Some features of any kind over any windows; each column once."""
    found: dict[str, Feature] = {}
    for _ in range(draw(st.integers(1, 6))):
        entity: Entity = draw(st.sampled_from(ENTITIES))
        window = f"{draw(st.sampled_from(LENGTHS_S))}s"
        names = st.sampled_from(sorted(entity.counters))
        one, other = (Counter(entity, n, entity.counters[n]) for n in (draw(names), draw(names)))
        shown = entity.impressions
        kind = draw(st.integers(0, 5))
        if kind == 0:
            made = sums(one, window)
        elif kind == 1:
            prior = draw(st.sampled_from(["traffic", 0.03]))
            made = rate(one, other, window, name=f"{one.name}_by_{other.name}", prior=prior)
        elif kind == 2:
            made = wilson(entity.clicks, shown, window, name="low", z=draw(st.floats(0.1, 4.0)))
        elif kind == 3:
            made = mean(one, other, window, name=f"{one.name}_per_{other.name}")
        elif kind == 4:
            made = coec(entity.clicks, shown, window, strength=draw(st.floats(0.5, 50.0)))
        else:
            made = age(one, published=video.PUBLISHED, window=window, name=f"{one.name}_age")
        found.update((feature.name, feature) for feature in made)
    # The world gives a publish time with every read, so something must take it.
    return [*age(video.item.likes, published=video.PUBLISHED, window="1m"), *found.values()]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    declared=features(), seed=st.integers(0, 2**32), step_s=st.sampled_from([1, 30, 900, 20_000])
)
def test_any_feature_equals_a_naive_count_bit_for_bit(
    redis_url: str, declared: list[Feature], seed: int, step_s: int
) -> None:
    redis.Redis.from_url(redis_url).flushall()
    rnd = random.Random(seed)
    world = World(redis_url, declared)
    now = START_MS + rnd.randrange(86_400_000)
    for _ in range(6):
        now += rnd.randrange(1, 2_000 * step_s)
        for topic in world.set.layout.topics:
            records = [
                event(rnd, topic, now - rnd.randrange(250_000)) for _ in range(rnd.randrange(9))
            ]
            world.add(topic, records, now)
        as_of = now + rnd.randrange(4_000)
        request = Request("x", f"u{rnd.randrange(3)}", f"q{rnd.randrange(2)}", as_of)
        items = ["i0", "i1", "i3", "never seen"]
        assert world.wrong(request, items, [None, now - 7_000, None, None], as_of) == []
