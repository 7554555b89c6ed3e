"""The rules by which time decides what counts, shared by every process that judges a record.

They decide data, so they are values that travel with the layout's hash, never a clock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimeRules:
    """Tolerances in milliseconds.

    An event counts iff ``-future_ms <= arrival - ts <= lateness_ms``; a snapshot iff
    ``-future_ms <= arrival - request_ts <= snapshot_lateness_ms``. ``slack_ms`` is how far a
    read's ``as_of`` may lie behind the newest event already applied.
    """

    future_ms: int = 5_000
    lateness_ms: int = 300_000
    snapshot_lateness_ms: int = 60_000
    slack_ms: int = 30_000
