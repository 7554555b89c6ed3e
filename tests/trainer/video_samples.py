"""Samples of the video preset's stream, as the records that a joiner makes of them."""

from __future__ import annotations

from sample_rows import Asked, batch_of

from tenuto.presets import video
from tenuto.snapshot.sample_record import Interval, encode_rows

T = 1_700_000_000_000
STEP_MS = 10_000
ITEMS = 8

Record = tuple[Interval, bytes]


def record(partition: int, start: int, stop: int, *, lacking: str = "") -> Record:
    """Snapshots ``[start, stop)`` of a partition, ten seconds apart, without one column."""
    columns = {c.name: c.hash for c in video.app.feature_set().columns if c.name != lacking}
    asked = [Asked(n, T + n * STEP_MS, ITEMS) for n in range(start, stop)]
    rows = batch_of(asked, partition, columns=columns, served=["ctr"])
    return Interval(start, stop, asked[-1].arrival_ms), encode_rows(rows)


def end(snapshots: int) -> Record:
    """The end mark after so many snapshots."""
    return Interval(snapshots, snapshots + 1, T + snapshots * STEP_MS, is_end=True), b""
