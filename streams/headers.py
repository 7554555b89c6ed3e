"""Names of the record headers that the platform gives a meaning, and how to look one up."""

from __future__ import annotations

from collections.abc import Iterable

HEARTBEAT = "tenuto-heartbeat"
END = "tenuto-end"
SENT_AT = "sent_at"


def header(headers: Iterable[tuple[str, bytes]] | None, name: str) -> bytes | None:
    """Value of the first header called ``name``, None if there is none."""
    for key, value in headers or ():
        if key == name:
            return value
    return None


def sent_at_ms(headers: Iterable[tuple[str, bytes]] | None) -> int | None:
    """When the producer sent the record, by its wall clock (epoch ms): for metrics, never data."""
    digits = header(headers, SENT_AT)
    # A foreign producer may write anything there, and a metric is no reason to stop.
    return int(digits) if digits is not None and len(digits) <= 18 and digits.isdigit() else None
