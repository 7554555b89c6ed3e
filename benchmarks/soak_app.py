"""The soak's application: the video preset's events and labels over windows of minutes.

With these an entity expires, and a label leaves the joiner, some ten times in an hour of real time:
brokers stamp, workers beat, and no clock runs faster than it does in production.
"""

from __future__ import annotations

from tenuto.features import values
from tenuto.features.feature import Feature
from tenuto.platform import Platform
from tenuto.presets.video import item, query, query_item, user
from tenuto.presets.video_events import clicks, impressions, plays
from tenuto.snapshot.labels import SampleStream, first, longest
from tenuto.trainer.tasks import Task

features: list[Feature] = [
    *values.sums(item.impressions, ("1m", "4m")),
    *values.sums(item.clicks, ("1m", "4m")),
    *values.rate(item.clicks, item.impressions, "4m", name="ctr"),
    *values.coec(item.clicks, item.impressions, "4m"),
    *values.mean(item.play_ms, item.plays, "4m", name="mean_play_ms"),
    *values.sums(user.impressions, "4m"),
    *values.rate(user.clicks, user.impressions, "4m", name="ctr"),
    *values.rate(query.clicks, query.impressions, "4m", name="ctr"),
    *values.rate(query_item.clicks, query_item.impressions, "4m", name="ctr"),
]

clicked = first(clicks, "clicked", window="1m", delay="click_delay_ms")
play_ms = longest(plays, "play_ms", "play_ms", window="2m")
converted = first(plays, "converted", window="2m", where="converted")

app = Platform(
    "soak",
    events=[impressions, clicks, plays],
    features=features,
    samples=[SampleStream("default", [clicked, play_ms, converted], impression_window="1m")],
    tasks=[
        Task("ctr", clicked),
        Task("cvr", converted, given="ctr", joint="ctcvr", prior=0.5),
    ],
)

SETTINGS = {
    "TENUTO_APP": "benchmarks.soak_app:app",
    "TENUTO_TIME__LATENESS": "20s",
    "TENUTO_TIME__SNAPSHOT_LATENESS": "20s",
    "TENUTO_TIME__SLACK": "5s",
    "TENUTO_KAFKA__RETENTION": "8m",
    "TENUTO_TRAINER__CHECKPOINT_EVERY": "2m",
    # Reached well before the half is over: a full table is what is to be seen.
    "TENUTO_MODEL__MAX_IDS": "20000",
}
"""Of every process, over what the servers' addresses are."""
