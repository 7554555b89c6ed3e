"""The events of a video or music search and feed, and how a play reports itself.

Impressions, clicks and plays carry the conversion that the ranker learns; likes are a bonus
signal. ``play_reports`` is the only place that knows when a play is reported.
"""

from __future__ import annotations

from typing import Any

from tenuto.features.events import Event, Field, LogRow

CONVERSION_PLAY_MS = 30_000
MAX_PLAY_MS = 24 * 3_600_000


def converts_after_ms(duration_ms: int) -> int:
    """Play time at which a play counts as a conversion: 30 s, or half of a shorter video."""
    if duration_ms > 0:
        return min(CONVERSION_PLAY_MS, (duration_ms + 1) // 2)
    return CONVERSION_PLAY_MS


def play_reports(row: LogRow) -> list[dict[str, Any]]:
    """The reports of one play: at its start, at the conversion threshold and at its end.

    Args:
        row: ``ts`` (start, epoch ms), ``play_ms`` and ``duration_ms`` (0 when unknown).

    Each report carries the play time so far and the time since the last report, so that sums of
    ``play_ms_delta`` and counts of the flags need no other record.
    """
    started_ts, play_ms = int(row["ts"]), int(row.get("play_ms") or 0)
    duration_ms = int(row.get("duration_ms") or 0)
    threshold_ms = converts_after_ms(duration_ms)
    moments = {0, play_ms}
    if play_ms >= threshold_ms:
        moments.add(threshold_ms)
    reports, before_ms = [], 0
    for so_far_ms in sorted(moments):
        reports.append(
            {
                "ts": started_ts + so_far_ms,
                "started_ts": started_ts,
                "play_ms": so_far_ms,
                "play_ms_delta": so_far_ms - before_ms,
                "duration_ms": duration_ms,
                "first": so_far_ms == 0,
                "finished": so_far_ms == play_ms and 0 < duration_ms <= play_ms,
                "converted": so_far_ms == threshold_ms,
            }
        )
        before_ms = so_far_ms
    return reports


impressions = Event(
    "impressions",
    implies_impression=True,
    doc="An item was really seen.",
)
clicks = Event(
    "clicks",
    implies_impression=True,
    doc="A user clicked on a shown item.",
)
plays = Event(
    "plays",
    fields={
        "started_ts": Field(int, ge=0, doc="when the play began, epoch ms UTC"),
        "play_ms": Field(int, ge=0, le=MAX_PLAY_MS, doc="played so far"),
        "play_ms_delta": Field(int, ge=0, le=MAX_PLAY_MS, doc="played since the last report"),
        "duration_ms": Field(
            int, ge=0, le=MAX_PLAY_MS * 7, required=False, default=0, doc="length; 0 if unknown"
        ),
        "first": Field(bool, required=False, default=False, doc="the play's first report"),
        "finished": Field(bool, required=False, default=False, doc="played to the end just now"),
        "converted": Field(
            bool, required=False, default=False, doc="passed the threshold just now"
        ),
    },
    implies_impression=True,
    doc="A report of a play: at its start, when it passes the conversion threshold, at its end.",
    example={
        "started_ts": 1_650_000_000_000,
        "play_ms": 30_000,
        "play_ms_delta": 30_000,
        "duration_ms": 65_000,
        "converted": True,
    },
    reports=play_reports,
)
likes = Event("likes", doc="A user liked a shown item.")

events = [impressions, clicks, plays, likes]
