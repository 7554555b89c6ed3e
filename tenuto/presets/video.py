"""Features, labels, sample streams and tasks for video and music search and feeds.

``small`` (at most 30 columns) is the default; ``full`` counts every entity over every window.
All of it are ordinary values: import, trim, or leave out.
"""

from __future__ import annotations

from tenuto.features import moments, values
from tenuto.features.entities import Entity, Measure, count, total
from tenuto.features.feature import Feature
from tenuto.platform import Platform
from tenuto.presets.video_events import clicks, events, impressions, likes, plays
from tenuto.snapshot.labels import Label, SampleStream, first, longest
from tenuto.trainer.tasks import Task

COUNTERS: dict[str, Measure] = {
    "impressions": count(impressions),
    "clicks": count(clicks),
    "plays": count(plays, where="first"),
    "play_ms": total(plays, "play_ms_delta"),
    "finishes": count(plays, where="finished"),
    "likes": count(likes),
    "placed": count(impressions, where="position"),
    "position": total(impressions, "position", where="position"),
}

item = Entity("item", "item_id", COUNTERS)
user = Entity("user", "user_id", COUNTERS)
query = Entity("query", "query", COUNTERS)
query_item = Entity("query_item", ("query", "item_id"), COUNTERS)

PUBLISHED = "published_ts"

small: list[Feature] = [
    *values.sums(item.impressions, ("5m", "1h", "1d", "7d")),
    *values.sums(item.clicks, ("5m", "1h", "1d", "7d")),
    *values.sums(item.likes, "1d"),
    *values.rate(item.clicks, item.impressions, ("1h", "1d", "7d"), name="ctr"),
    *values.coec(item.clicks, item.impressions, "1d"),
    *values.mean(item.finishes, item.plays, "1d", name="finish_rate", bounded=True),
    *values.mean(item.play_ms, item.plays, "1d", name="mean_play_ms"),
    *moments.age(item.impressions, published=PUBLISHED),
    *values.sums(user.impressions, ("1h", "1d")),
    *values.sums(user.clicks, "1h"),
    *values.rate(user.clicks, user.impressions, "1d", name="ctr"),
    *values.mean(user.play_ms, user.plays, "1d", name="mean_play_ms"),
    *values.sums(query.impressions, "1d"),
    *values.rate(query.clicks, query.impressions, "1d", name="ctr"),
    *values.sums(query_item.impressions, "7d"),
    *values.sums(query_item.clicks, "7d"),
    *values.rate(query_item.clicks, query_item.impressions, "7d", name="ctr"),
    *moments.hour(),
    *moments.weekday(),
]


def standard(entity: Entity, windows: tuple[str, ...]) -> list[Feature]:
    """Every standard feature of one entity over some windows."""
    e = entity
    features: list[Feature] = []
    for counter in (e.impressions, e.clicks, e.plays, e.play_ms, e.finishes, e.likes):
        features += values.sums(counter, windows)
    features += values.rate(e.clicks, e.impressions, windows, name="ctr")
    features += values.wilson(e.clicks, e.impressions, windows, name="ctr_low")
    features += values.mean(e.finishes, e.plays, windows, name="finish_rate", bounded=True)
    features += values.mean(e.play_ms, e.plays, windows, name="mean_play_ms")
    features += values.mean(e.position, e.placed, windows, name="mean_position")
    features += values.coec(e.clicks, e.impressions, windows)
    return features


full: list[Feature] = [
    *(f for entity in (item, user, query) for f in standard(entity, ("5m", "1h", "1d", "7d"))),
    *standard(query_item, ("1d", "7d")),
    *moments.age(item.impressions, published=PUBLISHED),
    *moments.hour(),
    *moments.weekday(),
]

clicked = first(clicks, "clicked", window="10m", delay="click_delay_ms")
played = first(plays, "played", window="30m")
play_ms = longest(plays, "play_ms", "play_ms", window="30m", carry=("duration_ms",))
liked = first(likes, "liked", window="30m")
converted = first(plays, "converted", window="30m", where="converted")

labels: list[Label] = [clicked, played, play_ms, liked, converted]

samples = [SampleStream("default", labels, impression_window="10m")]

tasks = [
    Task("ctr", clicked),
    Task("cvr", converted, given="ctr", joint="ctcvr", prior=0.5),
]

app = Platform("video", events=events, features=small, samples=samples, tasks=tasks)
