"""Applications that the benchmarks run, beside the video preset's own.

``counts`` keeps what a peer's hopping window keeps, one count over five minutes, of items and of
users; ``full`` is the preset with every entity over every window; ``join_…`` join one label.
"""

from __future__ import annotations

from benchmarks import soak_app
from tenuto.features import values
from tenuto.features.entities import Entity, count
from tenuto.platform import Platform
from tenuto.presets import video
from tenuto.presets.video_events import clicks, impressions
from tenuto.snapshot.labels import SampleStream, first

COUNTER = {"impressions": count(impressions)}
item = Entity("item", "item_id", COUNTER)
user = Entity("user", "user_id", COUNTER)

counts = Platform(
    "counts",
    events=[impressions],
    features=[*values.sums(item.impressions, "5m"), *values.sums(user.impressions, "5m")],
    samples=[],
)
full = Platform(
    "video-full", events=video.app.events, features=video.full, samples=video.app.samples
)
small = video.app


def _joined(window: str) -> Platform:
    """Impressions and clicks joined over one window; a snapshot has the preset's columns."""
    return Platform(
        f"join-{window}",
        events=video.app.events,
        features=video.small,
        samples=[SampleStream("default", [first(clicks, "clicked", window=window)],
                              impression_window=window)],
    )  # fmt: skip


# Windows of minutes: all of the loop is seen at work within one run.
live = soak_app.app
join_10m, join_24h = _joined("10m"), _joined("24h")
