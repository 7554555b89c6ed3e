"""Names of sample columns: those that every sample has, and which features and labels may take.

Names only, for whoever declares; types and order are in ``samples.py`` and ``join.py``.
"""

from __future__ import annotations

from collections.abc import Iterable

from tenuto.snapshot.labels import SampleStream

STATE_SUFFIX = "__state"
SERVED_PREFIX = "served_"
REQUEST_COLUMNS = (
    "request_id",
    "user_id",
    "query",
    "item_id",
    "position",
    "request_ts_ms",
    "as_of_ms",
)
IMPRESSION_COLUMNS = ("impressed", "impression_delay_ms")
ORIGIN_COLUMNS = (
    "policy",
    "slice",
    "model",
    "propensity",
    "weight",
    "snapshot_partition",
    "snapshot_offset",
    "item_index",
    "snapshot_arrival_ms",
)


def clashes(features: Iterable[str], stream: SampleStream) -> list[str]:
    """What is wrong with the names of a stream's columns, a line each; none where all differ."""
    owners = dict.fromkeys(
        (*REQUEST_COLUMNS, *IMPRESSION_COLUMNS, *ORIGIN_COLUMNS), "a column of every sample"
    )
    found = []

    def take(column: str, owner: str) -> None:
        taken = owners.setdefault(column, owner)
        if taken != owner:
            found.append(f"{owner}: column {column!r} is taken, by {taken}")
        elif column.startswith(SERVED_PREFIX):
            found.append(f"{owner}: column {column!r}: {SERVED_PREFIX}… are the served scores")

    for label in stream.labels:
        for column in label.columns:
            take(column, f"label {label.name!r} of sample stream {stream.name!r}")
    for feature in features:
        for column in (feature, feature + STATE_SUFFIX):
            take(column, f"feature {feature!r}")
    return found


def column_fault(features: Iterable[str]) -> str:
    """Why samples cannot have feature columns of these names; "" if they can."""
    taken = {*REQUEST_COLUMNS, *IMPRESSION_COLUMNS, *ORIGIN_COLUMNS}
    for feature in features:
        for column in (feature, feature + STATE_SUFFIX):
            if column in taken or column.startswith(SERVED_PREFIX) or not feature:
                return f"{column[:60]!r}: must be a name of its own in the samples"
            taken.add(column)
    return ""
